import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, Cosine, RectifiedFlow, SubVP
from genjax.process.table import Table
from genjax.solvers import GRIDS


def times(name, process, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(process, n)


def indices(name, n, **fields):
    """The table's indices that a grid visits, ascending."""
    t = times(name, Table(), n, **fields)
    assert t[-1] == 0 and t.dtype == np.float64
    return (t[:-1] - 1)[::-1].astype(int).tolist()


def test_respaced_indices_are_the_published_ones():
    i = indices("respaced", 250)
    assert i[:5] == [0, 4, 8, 12, 16] and i[-3:] == [991, 995, 999] and len(set(i)) == 250
    i = indices("respaced", 50)
    assert i[:5] == [0, 20, 41, 61, 82] and i[-3:] == [958, 979, 999]
    assert indices("respaced", 10) == list(range(0, 1000, 111))
    assert indices("respaced", 1000) == list(range(1000))
    # 2.5 and 7.5 round to the even neighbour
    assert (times("respaced", Table("cosine", n=11), 5)[::-1] - 1).tolist() == [-1, 0, 2, 5, 8, 10]


def test_integer_grids_of_the_literature():
    assert indices("trailing", 10) == list(range(99, 1000, 100))
    assert indices("leading", 10) == list(range(0, 1000, 100))
    assert indices("leading", 10, offset=1) == list(range(1, 1000, 100))
    assert indices("leading", 50)[-1] == 980
    expected = [int(s) for s in np.linspace(0, np.sqrt(800), 20) ** 2]  # the definition in DDIM
    assert indices("quadratic", 20) == expected and expected[-1] == 800
    assert indices("quadratic", 10, fraction=1.0)[-1] == 999


def test_one_step_grids():
    for name in ("trailing", "respaced"):
        assert times(name, Table(), 1).tolist() == [1000, 0]
    assert times("quadratic", Table(), 1).tolist() == [801, 0]
    assert times("leading", Table(), 1).tolist() == [1, 0]  # its definition: index 0
    assert times("karras", EDM(), 1).tolist() == [pytest.approx(80, rel=1e-14), 0]
    assert times("uniform", RectifiedFlow(), 1).tolist() == [1, 0]
    assert times("uniform", RectifiedFlow(), 1, last=0.04).tolist() == [1, 0]
    assert times("logsnr", VP(), 1).tolist() == [1, 0]
    assert times("logsnr", VP(), 1, zero=False).tolist() == [1, 1e-5]


def test_karras_is_equation_5_and_is_the_same_levels_for_every_process():
    t = times("karras", EDM(), 18)
    k = np.arange(18)
    root = 80 ** (1 / 7) + k / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))
    np.testing.assert_allclose(t, [*root**7, 0], rtol=1e-13)
    for process in (VP(), RectifiedFlow(), Cosine(), Table(betas="scaled_linear")):
        t = times("karras", process, 9, sigma_min=0.03, sigma_max=14.0, rho=5.0)
        root = np.linspace(14 ** (1 / 5), 0.03 ** (1 / 5), 9)
        np.testing.assert_allclose(process.lam(t[:-1]), root**5, rtol=1e-9)
        assert t[-1] == 0


def test_logsnr_is_uniform_in_the_log_noise_level():
    t = times("logsnr", VP(), 40, end=1e-3, zero=False)
    assert t[0] == 1 and t[-1] == 1e-3 and len(t) == 41
    np.testing.assert_allclose(np.diff(np.log(VP().lam(t)), 2), 0, atol=1e-9)
    t = times("logsnr", VE(), 10)
    assert t[-1] == 0 and len(t) == 11


def test_uniform_last_step_and_shift():
    t = times("uniform", RectifiedFlow(), 250, last=0.04)
    np.testing.assert_allclose(t, [*np.linspace(1, 0.04, 250), 0])
    assert times("uniform", RectifiedFlow(), 2, shift=3.0).tolist() == [1, pytest.approx(0.75), 0]
    t = times("uniform", Cosine(), 4, shift=2.0)
    np.testing.assert_allclose(
        Cosine().lam(t[1:-1]), 2 * Cosine().lam(np.array([0.75, 0.5, 0.25])), rtol=1e-12
    )
    assert t[0] == 1 and t[-1] == 0
    assert times("uniform", VP(), 4, end=1e-3)[-1] == 1e-3


def test_listed():
    assert times("listed", EDM(), 2, t=[14.6, 1.0, 0.0]).tolist() == [14.6, 1, 0]


@pytest.mark.parametrize(
    ("name", "process", "n", "fields", "words"),
    [
        ("trailing", VP(), 10, {}, "table of betas"),
        ("respaced", Table(), 1001, {}, "1001"),
        ("leading", Table(), 1000, {"offset": 1}, "offset"),
        ("uniform", VP(), 0, {}, "at least 1"),
        ("uniform", VP(), 5, {"start": 0.1, "end": 0.2}, "start"),
        ("uniform", VP(), 5, {"shift": 3.0}, "shift"),
        ("uniform", VP(), 5, {"shift": 0.0}, "shift"),
        ("karras", RectifiedFlow(), 5, {}, "sigma_max"),
        ("karras", EDM(), 5, {"sigma_min": 90.0}, "sigma_min"),
        ("logsnr", RectifiedFlow(), 5, {"end": 0.01}, "start"),
        ("logsnr", VP(), 5, {"start": 0.1, "end": 0.2}, "end"),
        ("listed", VP(), 5, {"t": [1.0, 0.0]}, "steps"),
        ("listed", VP(), 5, {"t": [0.0, 1.0]}, "falling"),
        ("quadratic", Table(), 5, {"fraction": 1.5}, "fraction"),
    ],
)
def test_errors_name_the_key(name, process, n, fields, words):
    with pytest.raises(UserError, match=words):
        times(name, process, n, **fields)


def test_score_sdes_grid_is_the_published_one():
    for process, eps in ((VE(), 1e-5), (VP(), 1e-3), (SubVP(), 1e-3)):
        t = times("score_sde", process, 1000)
        np.testing.assert_array_equal(t, [*np.linspace(1, eps, 1000), 0])
        # the code's index int(t (N-1)), in float32, visits every level once
        index = (t[:-1].astype(np.float32) * np.float32(999)).astype(int)
        np.testing.assert_array_equal(index, np.arange(999, -1, -1))
    assert times("score_sde", EDM(), 5).tolist() == [*np.linspace(80, 0.002, 5), 0]
    assert times("score_sde", VP(), 1).tolist() == [1, 0]
    assert times("score_sde", VP(), 3, eps=0.2, start=0.8, end=0.1).tolist() == [0.8, 0.5, 0.2, 0.1]
    for fields in ({"eps": 1.0}, {"end": 0.1}, {"eps": -0.1}):
        with pytest.raises(UserError, match=r"sampler.grid.eps: .* must lie between end"):
            times("score_sde", VE(), 10, **fields)


def test_twice_the_steps_are_score_sdes_interpolation():
    """P2000: VE keeps its ends and doubles N, a table's betas are halved, labels run linearly."""
    levels = VE().sigma(times("score_sde", VE(), 2000, eps=0.0)[:-1])
    np.testing.assert_allclose(levels, np.geomspace(50, 0.01, 2000), rtol=1e-12)
    table = Table()
    t = times("score_sde", table, 2000)
    np.testing.assert_allclose(t[:-1] - 1, np.arange(1999, -1, -1) / 2, atol=0.51)
    beta = 1 - (table.alpha(t[:-1]) / table.alpha(t[1:])) ** 2
    want = np.linspace(1e-4, 2e-2, 2000)[::-1] / 2
    np.testing.assert_allclose(beta[:-100], want[:-100], rtol=2e-2)
    assert np.prod(1 - beta) == pytest.approx(np.prod(1 - table.beta_values()), rel=1e-9)
