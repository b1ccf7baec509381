import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VP, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS

SD = Table(betas="scaled_linear")


def times(name, process, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(process, n)


def test_exponential_is_uniform_in_log_sigma():
    t = times("exponential", EDM(), 10, sigma_min=0.1, sigma_max=10.0)
    np.testing.assert_allclose(t[:-1], np.geomspace(10, 0.1, 10), rtol=1e-13)
    assert t[-1] == 0 and len(t) == 11
    for process in (EDM(), VP(), SD):
        np.testing.assert_allclose(
            times("exponential", process, 8), times("logsnr", process, 8), rtol=1e-9
        )
    assert times("exponential", EDM(), 1).tolist() == [pytest.approx(80), 0]


def test_levels_as_given():
    for process in (EDM(), VP(), RectifiedFlow(), SD):
        t = times("levels", process, 3, lam=[14.0, 3.0, 0.5, 0.0])
        np.testing.assert_allclose(process.lam(t[:-1]), [14, 3, 0.5], rtol=1e-10)
        assert t[-1] == 0
        t = times("levels", process, 2, lam=[14.0, 3.0, 0.5])
        np.testing.assert_allclose(process.lam(t), [14, 3, 0.5], rtol=1e-10)


def test_power_is_quadratic_in_t():
    t = times("power", VP(), 10)
    assert t[0] == 1 and t[-1] == 1e-3
    np.testing.assert_allclose(t, np.linspace(1, np.sqrt(1e-3), 11) ** 2, rtol=1e-13)
    assert times("power", RectifiedFlow(), 4, end=0.0, power=1.0).tolist() == [
        1,
        0.75,
        0.5,
        0.25,
        0,
    ]


def test_linspace_indices():
    index = times("linspace", Table(), 10)[:-1] - 1
    assert index.tolist() == list(range(999, -1, -111))


@pytest.mark.parametrize(
    ("model", "indices"),
    [
        ("sd15", [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]),
        ("sdxl", [999, 845, 730, 587, 443, 310, 193, 116, 53, 13]),
    ],
)
def test_align_your_steps(model, indices):
    """The published indices and the published levels are one grid."""
    t = times("ays", SD, 10, model=model, indices=True)
    assert (t[:-1] - 1).tolist() == indices and t[-1] == 0
    levels = times("ays", SD, 10, model=model)
    np.testing.assert_allclose(levels[:-1] - 1, indices, atol=3)
    np.testing.assert_allclose(np.log(SD.lam(levels[:-1])), np.log(SD.lam(t[:-1])), atol=0.02)
    assert np.all(np.diff(levels) < 0)


def test_align_your_steps_for_other_numbers():
    """Interpolation in log sigma over the share of the way."""
    published = np.log([700, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034])
    video = EDM(sigma_max=700.0)
    for n in (5, 10, 19):
        t = times("ays", video, n, model="svd")
        wanted = np.interp(np.linspace(0, 9, n), np.arange(10), published)
        np.testing.assert_allclose(t[:-1], np.exp(wanted), rtol=1e-12)
        assert t[-1] == 0
    t = times("ays", video, 19, model="svd")
    assert t[1] == pytest.approx(np.sqrt(700 * 54.5), rel=1e-12)  # half way between two
    assert times("ays", video, 1, model="svd").tolist() == [pytest.approx(700), 0]


@pytest.mark.parametrize(
    ("name", "process", "n", "fields", "words"),
    [
        ("exponential", RectifiedFlow(), 5, {}, "sigma_max"),
        ("exponential", EDM(), 5, {"sigma_min": 90.0}, "sigma_min"),
        ("levels", EDM(), 3, {"lam": [3.0, 1.0, 0.0]}, "steps"),
        ("levels", EDM(), 2, {"lam": [1.0, 3.0, 0.0]}, "falling"),
        ("levels", EDM(), 2, {"lam": [1.0, 0.0, 0.0]}, "positive"),
        ("levels", EDM(), 1, {"lam": [100.0, 0.0]}, "above"),
        ("ays", EDM(), 10, {"model": "svd"}, "above"),
        ("ays", EDM(), 10, {"model": "sd3"}, "sd15"),
        ("ays", SD, 8, {"indices": True}, "indices"),
        ("ays", EDM(), 10, {"indices": True}, "indices"),
        ("ays", EDM(), 10, {"model": "svd", "indices": True}, "indices"),
        ("ays", SD, 0, {}, "at least 1"),
        ("power", VP(), 5, {"start": 0.1, "end": 0.2}, "end"),
        ("power", VP(), 5, {"power": 0.0}, "power"),
    ],
)
def test_errors_name_the_key(name, process, n, fields, words):
    with pytest.raises(UserError, match=words):
        times(name, process, n, **fields)
