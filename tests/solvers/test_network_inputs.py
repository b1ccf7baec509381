"""Skip scales and block masks as rows: the paper's schedules, their direction, and bad input."""

import dataclasses

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import PROCESSES
from genjax.solvers import GRIDS, SOLVERS
from genjax.solvers.network_inputs import INPUTS, SkipTuning

EDM = PROCESSES.build({"name": "edm"})
SHAPE = (8, 8, 3)


@dataclasses.dataclass(frozen=True)
class Network:
    num_skips: int = 4
    skip_scales: tuple[str, ...] = ("skip_scale", "skip_norm_scale", "skip_shortcut_scale")

    def num_blocks(self, shape):
        return shape[0]


def rows_of(fields, solver="heun", steps=5, process=EDM, network=None):
    made = SOLVERS.build({"name": solver} | ({"space": "lam"} if solver == "heun" else {})).bind(
        process
    )
    grid = "karras" if process is EDM else "uniform"
    rows = made.rows(GRIDS.build({"name": grid}).times(process, steps))
    return INPUTS.build(fields).rows(process, network or Network(), SHAPE, rows)


def scales(**fields):
    return rows_of({"name": "skip_tuning", **fields})["inputs"]["skip_scale"]


def test_layers_go_from_bottom_to_top():
    # Encoder order: the first entry is the skip nearest the pixels. k = 4, 0.5 to 1.
    half = SkipTuning(0.5, 1.0)
    np.testing.assert_allclose(half.factors(4), [0.875, 0.75, 0.625, 0.5])
    whole = dataclasses.replace(half, inclusive=True)
    np.testing.assert_allclose(whole.factors(4), [1.0, 5 / 6, 4 / 6, 0.5])
    np.testing.assert_array_equal(SkipTuning(0.7, 0.7).factors(3), np.full(3, 0.7))
    np.testing.assert_allclose(scales(bottom=0.5), np.tile([0.875, 0.75, 0.625, 0.5], (5, 1)))


def test_time_is_counted_from_data_to_noise():
    # "increasing": rho_0 at the data, the last step; 1 at the noise, the first.
    rising = scales(bottom=0.6, top=0.6, over_time="increasing")
    np.testing.assert_allclose(rising[:, 0], [1.0, 0.9, 0.8, 0.7, 0.6])
    falling = scales(bottom=0.6, top=0.6, over_time="decreasing")
    np.testing.assert_allclose(falling[:, 2], [0.6, 0.7, 0.8, 0.9, 1.0])
    rows = rows_of({"name": "skip_tuning", "bottom": 0.6, "top": 0.6, "over_time": "log_lam"})
    sigma = rows["t"]
    want = 1 - 0.4 * np.log(sigma[0] / sigma) / np.log(sigma[0] / sigma[-1])
    np.testing.assert_allclose(rows["inputs"]["skip_scale"][:, 1], want)


def test_flow_starts_at_infinite_noise():
    flow = PROCESSES.build({"name": "flow"})
    fields = {"name": "skip_tuning", "bottom": 0.5, "top": 0.5, "over_time": "log_lam"}
    found = rows_of(fields, "euler", process=flow)["inputs"]["skip_scale"][:, 0]
    assert found[0] == found[1] == 1.0 and found[-1] == 0.5 and np.all(np.diff(found) <= 0)


def test_an_interval_acts_at_each_stages_own_level():
    fields = {"name": "skip_tuning", "bottom": 0.5, "top": 0.5}
    plain = rows_of(fields)
    lo, hi = plain["t"][3], plain["t"][1]
    rows = rows_of({**fields, "interval": (lo, hi)})
    np.testing.assert_array_equal(rows["inputs"]["skip_scale"][:, 0], [1, 0.5, 0.5, 1, 1])
    # Heun's second evaluation is one step further down.
    np.testing.assert_array_equal(rows["inputs_2"]["skip_scale"][:4, 0], [0.5, 0.5, 1, 1])


def test_where_names_the_networks_input():
    for where, key in (("shortcut", "skip_shortcut_scale"), ("post_norm", "skip_norm_scale")):
        rows = rows_of({"name": "skip_tuning", "bottom": 0.9, "where": where})
        assert list(rows["inputs"]) == [key]
    plain = Network(skip_scales=("skip_scale",))
    with pytest.raises(UserError, match=r"sampler.inputs.where: a Network has no 'shortcut'"):
        rows_of({"name": "skip_tuning", "bottom": 0.9, "where": "shortcut"}, network=plain)
    with pytest.raises(UserError, match="a Network has no skips to scale"):
        rows_of({"name": "skip_tuning", "bottom": 0.9}, network=Network(num_skips=0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bottom": -0.1},
        {"top": -1.0},
        {"where": "there"},
        {"over_time": "never"},
        {"interval": (2.0, 1.0)},
    ],
)
def test_fields_out_of_range_are_named(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        INPUTS.build({"name": "skip_tuning", "bottom": 0.5, **wrong})


def test_blocks_are_masked_by_number_and_step():
    rows = rows_of({"name": "block_mask", "skipped": ((), (0, 7), (3,), (), ())})
    want = np.ones((5, 8))
    want[1, [0, 7]] = want[2, 3] = 0
    np.testing.assert_array_equal(rows["inputs"]["block_mask"], want)
    assert "inputs_2" not in rows  # a second stage is given what its step is
    with pytest.raises(UserError, match="lists 1 steps, the solver takes 5"):
        rows_of({"name": "block_mask", "skipped": ((),)})
    with pytest.raises(UserError, match="block 8 of step 4 is none of 0 to 7"):
        rows_of({"name": "block_mask", "skipped": ((), (), (), (), (8,))})
    with pytest.raises(UserError, match="no block of a object can be left out"):
        rows_of({"name": "block_mask", "skipped": ((),) * 5}, network=object())
