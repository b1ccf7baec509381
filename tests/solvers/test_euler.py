import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process.gaussian import EDM, VE, VP, RectifiedFlow
from genjax.process.table import Table
from genjax.solvers import GRIDS
from tests.solvers.solver_toys import affine_map, bound, gaussian, mixture, run


def grid(name, process, n, **fields):
    return GRIDS.build({"name": name, **fields}).times(process, n)


@pytest.mark.parametrize("space", ["t", "lam"])
def test_edm_closed_form(space):
    """x = 80 at sigma = 80 to sigma = 0, data N(0, 0.5^2); the exact map ends at 0.4999902347."""
    process = EDM()
    denoise = gaussian(process, 0.0, 0.5)
    heun = {18: 0.5276246370, 40: 0.5048768647, 64: 0.5018214283, 128: 0.5004301646}
    heun[256] = 0.5000954246
    euler = {18: 0.4230314364, 40: 0.4648507745, 64: 0.4779342520, 128: 0.4889226127}
    euler[256] = 0.4944451576
    for name, expected in (("heun", heun), ("euler", euler)):
        for n, value in expected.items():
            out = run(
                bound(name, process, space=space), grid("karras", process, n), denoise, [80.0]
            )
            assert out[0] == pytest.approx(value, abs=1e-9), (name, n)


def test_edm_mixture_errors_against_a_fine_reference():
    process = EDM()
    denoise = mixture(process, (0.3, 0.7), (-1.0, 0.8), (0.2, 0.4))
    starts = np.linspace(-2, 2, 9) * 80
    reference = run(bound("heun", process), grid("karras", process, 4000), denoise, starts)
    for name, expected in (
        ("heun", (0.0516, 0.0180, 0.00509, 0.00135)),
        ("euler", (0.147, 0.102, 0.0656, 0.0391)),
    ):
        errors = [
            np.abs(
                run(bound(name, process), grid("karras", process, n), denoise, starts) - reference
            ).max()
            for n in (18, 36, 72, 144)
        ]
        np.testing.assert_allclose(errors, expected, rtol=5e-3)


def test_p3_flow_matching():
    """Data N(0.5, 0.25), noise N(0, 1), t from 1 to 0."""
    process = RectifiedFlow()
    denoise = gaussian(process, 0.5, 0.5)
    for name, expected in (
        ("euler", (0.340540541, 0.414784554, 0.455683093)),
        ("heun", (0.432715453, 0.485115860, 0.496625266)),
    ):
        for n, value in zip((4, 8, 16), expected):
            offset, slope = affine_map(bound(name, process), grid("uniform", process, n), denoise)
            assert offset == pytest.approx(0.5, abs=1e-12)
            assert slope == pytest.approx(value, abs=6e-10)
    shifted = grid("uniform", process, 8, shift=3.0)
    assert affine_map(bound("euler", process), shifted, denoise)[1] == pytest.approx(
        0.340151194, abs=6e-10
    )


def test_sit_linear_slopes():
    """Data N(1.5, 0.5^2). SiT's Heun also takes the velocity at t = 0: the limit of t_floor."""
    process = RectifiedFlow()
    denoise = gaussian(process, 1.5, 0.5)
    for solver, expected, tolerance in (
        (bound("euler", process), (0.430783, 0.485397, 0.497045), 6e-7),
        (bound("heun", process, t_floor=1e-7), (0.501720, 0.500089, 0.5000037), 6e-7),
    ):
        for n, value in zip((10, 50, 250), expected):
            offset, slope = affine_map(solver, grid("uniform", process, n), denoise)
            assert offset == pytest.approx(1.5, abs=1e-8)
            assert slope == pytest.approx(value, abs=tolerance)


def test_a_floor_keeps_the_second_order():
    process = RectifiedFlow()
    denoise = mixture(process, (0.3, 0.7), (-1.0, 0.6), (0.25, 0.4))
    starts = np.array([-1.5, -0.2, 0.9])
    solver = bound("heun", process, t_floor=1e-3)
    outs = [run(solver, grid("uniform", process, n), denoise, starts) for n in (40, 80, 160, 1280)]
    errors = [np.abs(out - outs[-1]).max() for out in outs[:-1]]
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3


@pytest.mark.parametrize(
    ("process", "name", "high", "low", "steps", "order"),
    [
        (VP(), "euler", 0.9, 0.2, (40, 80), 1),
        (VP(), "heun", 0.9, 0.2, (40, 80), 2),
        (VE(), "euler", 0.9, 0.2, (80, 160), 1),
        (VE(), "heun", 0.9, 0.2, (40, 80), 2),
        (Table(), "euler", 1000.0, 1.0, (999, 1998), 1),  # its slope jumps at every entry
    ],
    ids=lambda p: type(p).__name__ if isinstance(p, VP | VE | Table) else None,
)
def test_order_in_t_towards_the_exact_map(process, name, high, low, steps, order):
    """x_t - alpha m scales as the marginal's standard deviation on the exact path."""
    mean, std = 0.5, 0.7

    def marginal(t):
        return np.sqrt((process.alpha(t) * std) ** 2 + process.sigma(t) ** 2)

    exact = marginal(low) / marginal(high)
    fields = {"t_floor": low} if name == "heun" else {}
    errors = [
        affine_map(
            bound(name, process, **fields),
            np.linspace(high, low, n + 1),
            gaussian(process, mean, std),
        )[1]
        - exact
        for n in steps
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15), errors


def test_heun_in_lam_cannot_start_without_data():
    process = RectifiedFlow()
    with pytest.raises(UserError, match="t = 1 "):
        bound("heun", process, space="lam").rows(np.array([1.0, 0.5, 0.0]))
    assert bound("heun", process, space="lam").rows(np.array([0.99, 0.5, 0.0]))
    for space in ("t", "lam"):  # these two can
        bound("euler", process, space=space).rows(np.array([1.0, 0.5, 0.0]))
    with pytest.raises(UserError, match="space"):
        bound("euler", process, space="sigma")
    with pytest.raises(UserError, match="t_floor"):
        bound("heun", process, t_floor=-1.0)
    with pytest.raises(UserError, match="two times"):
        bound("euler", process).rows(np.array([1.0]))
