import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import VP, Cosine, RectifiedFlow
from genjax.solvers import GRIDS
from tests.solvers.solver_toys import bound, gaussian, moments

SIT_GRID = GRIDS.build({"name": "uniform", "last": 0.04})


def test_published_setting(monkeypatch):
    """SiT, Linear, w = sigma, 250 evaluations on N(1.5, 0.5^2): mean 1.5, std 0.497."""
    process = RectifiedFlow()
    solver = bound("sit_sde", process)
    grid = SIT_GRID.times(process, 250)
    mean, variance = moments(monkeypatch, solver, grid, gaussian(process, 1.5, 0.5), 0.0, 1.0)
    assert mean == pytest.approx(1.5, abs=2e-3)
    assert np.sqrt(variance) == pytest.approx(0.497, abs=5e-3)  # the sheet's is of 20k samples
    rows = solver.rows(grid)
    assert rows["s"][-1] == 0 and np.all(rows["s"][:-1] > 0) and solver.nfe(250) == 250


def test_moments_follow_the_sde_written_in_sits_own_variables(monkeypatch):
    """Against Euler-Maruyama in the released code's time (0 noise, 1 data) on moments."""
    process, n, m, s = RectifiedFlow(), 60, 1.5, 0.5
    mean, variance = 0.0, 1.0
    tau = np.linspace(0, 0.96, n)
    for i in range(n):
        alpha, sigma = tau[i], 1 - tau[i]
        total = (alpha * s) ** 2 + sigma**2
        h = tau[i + 1] - tau[i] if i < n - 1 else 0.04
        # v = E[x0 - eps | x], score = -(x - alpha m)/total, drift v + w score
        slope = (alpha * s**2 - sigma) / total - sigma / total
        mean, shift = mean + h * m, mean - alpha * m
        mean += h * slope * shift
        variance = (1 + h * slope) ** 2 * variance + (2 * sigma * h if i < n - 1 else 0)
    got = moments(
        monkeypatch,
        bound("sit_sde", process),
        SIT_GRID.times(process, n),
        gaussian(process, m, s),
        0.0,
        1.0,
    )
    assert got == (pytest.approx(mean, abs=1e-10), pytest.approx(variance, abs=1e-10))


@pytest.mark.parametrize(
    "process", [RectifiedFlow(), Cosine(), VP()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("w", ["sigma", "kl", "constant", "sin2"])
def test_any_diffusion_leaves_the_marginals_right(monkeypatch, process, w):
    """From the exact marginal at t = 0.9 to that of t = 0.1, in the limit of many steps."""
    m, s, high, low = 0.5, 0.7, 0.9, 0.1
    errors = []
    for n in (1000, 2000):
        mean, variance = moments(
            monkeypatch,
            bound("sit_sde", process, w=w),
            np.append(np.linspace(high, low, n), low),  # the mean step has length 0
            gaussian(process, m, s),
            m * process.alpha(high),
            (s * process.alpha(high)) ** 2 + process.sigma(high) ** 2,
        )
        target = (s * process.alpha(low)) ** 2 + process.sigma(low) ** 2
        errors.append((mean - m * process.alpha(low), variance - target))
    np.testing.assert_allclose(errors[1], 0, atol=2e-2)
    np.testing.assert_allclose(errors[1], np.array(errors[0]) / 2, rtol=0.1, atol=1e-6)


def test_the_factor_between_paper_and_code():
    """Paper: noise sqrt(w) with w = sigma or g^2. Code: sqrt(2 w), half the w."""
    process, grid = Cosine(), np.array([0.8, 0.7, 0.6])
    paper_sigma = bound("sit_sde", process, w="sigma", scale=0.5).rows(grid)["s"][0]
    assert paper_sigma == pytest.approx(np.sqrt(process.sigma(0.8) * 0.1))
    paper_kl = bound("sit_sde", process, w="kl").rows(grid)["s"][0]
    alpha, sigma = process.alpha(0.8), process.sigma(0.8)
    w_kl = 2 * (sigma * process.dsigma(0.8) - process.dalpha(0.8) * sigma**2 / alpha)
    assert paper_kl == pytest.approx(np.sqrt(w_kl * 0.1))
    assert w_kl == pytest.approx(process.diffusion2(0.8))


def test_no_diffusion_is_euler_and_kl_is_refused_where_it_is_infinite():
    process, grid = RectifiedFlow(), np.linspace(1, 0, 6)
    sde, euler = bound("sit_sde", process, scale=0.0).rows(grid), bound("euler", process).rows(grid)
    for name in ("a", "c"):
        np.testing.assert_allclose(sde[name], euler[name], rtol=1e-12)
    assert not sde["s"].any()
    with pytest.raises(UserError, match="t = 1 "):
        bound("sit_sde", process, w="kl").rows(grid)
    for fields in ({"w": "sbdm"}, {"scale": -1.0}):
        with pytest.raises(UserError):
            bound("sit_sde", process, **fields)
