import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.arrays import bcast
from genjax.core.errors import UserError
from genjax.process import EDM, PRECONDS, VE, VP, Cosine, RectifiedFlow, SubVP, Table
from genjax.process.precond import V

PROCESSES = [VE(), VP(), SubVP(), EDM(), RectifiedFlow(), Cosine(), Table(), Table(n=60)]
ROWS = [k for k in PRECONDS.entries if k != "consistency"]


def build(kind, **fields):
    return PRECONDS.build({"name": kind} | fields)


def pair(b, seed=0):
    x0, eps = np.random.default_rng(seed).normal(size=(2, b, 4, 3))
    return x0, eps


def inside(process, count=13):
    return process.t_min + (process.t_max - process.t_min) * np.linspace(0.03, 0.97, count)


def recovered(row, process, t, x0, eps):
    """D if the network predicts its target exactly."""
    x = process.perturb(x0, eps, t)
    target = row.target(process, t, x0, eps)
    return bcast(row.c_skip(process, t), x) * x + bcast(row.c_out(process, t), x) * target


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}")
@pytest.mark.parametrize("kind", ROWS)
def test_every_row_recovers_the_data_from_its_target(kind, process):
    t = inside(process)
    x0, eps = pair(len(t))
    got = recovered(build(kind), process, t, x0, eps)
    # rounding of x is divided by alpha in the rows with 1/alpha
    bound = 2e-15 * (1 + 2 * process.lam(t).reshape(-1, 1, 1))
    assert np.all(np.abs(got - x0) < bound)


def test_consistency_recovers_the_data_and_keeps_the_boundary():
    row, process = build("consistency"), EDM()
    t = np.array([0.01, 0.5, 1, 80])
    x0, eps = pair(4)
    np.testing.assert_allclose(recovered(row, process, t, x0, eps), x0, atol=1e-13)
    assert row.c_skip(process, 0.002) == 1 and row.c_out(process, 0.002) == 0
    got = [f(process, t[1:]) for f in (row.c_skip, row.c_out, row.c_in)]
    want = [[0.502004, 0.200641, 3.90629e-5], [0.352139, 0.446319, 0.499978], None]
    for g, w in zip(got[:2], want[:2]):
        np.testing.assert_allclose(g, w, rtol=0, atol=5.1e-7)  # six printed digits
    np.testing.assert_allclose(got[2], [1.414214, 0.894427, 0.0124998], rtol=4e-6)
    for other in (VE(), RectifiedFlow(), Table()):
        with pytest.raises(UserError, match=r"precond\.name: consistency"):
            row.check(other)


EDM_TABLE = np.array(  # sigma, c_skip, c_out, c_in, c_noise, lambda
    [
        [0.002, 0.9999840003, 0.0019999840, 1.9999840002, -1.5536520246, 250004],
        [0.1, 0.9615384615, 0.0980580676, 1.9611613514, -0.5756462732, 104],
        [0.5, 0.5, 0.3535533906, 1.4142135624, -0.1732867951, 8],
        [1, 0.2, 0.4472135955, 0.8944271910, 0, 5],
        [80, 3.906097e-5, 0.4999902347, 0.0124997559, 1.0955066587, 4.00015625],
    ]
)


def test_published_coefficients_of_edm():
    row, process, sigma = build("edm"), EDM(), EDM_TABLE[:, 0]
    for column, f in ((1, row.c_skip), (2, row.c_out), (3, row.c_in)):
        np.testing.assert_allclose(f(process, sigma), EDM_TABLE[:, column], rtol=2e-7, atol=5e-11)
    np.testing.assert_allclose(row.c_noise(process, sigma), EDM_TABLE[:, 4], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(1 / row.c_out(process, sigma) ** 2, EDM_TABLE[:, 5], rtol=1e-10)
    np.testing.assert_allclose(row.c_in(process, sigma) ** 2 * (0.25 + sigma**2), 1)
    np.testing.assert_allclose(
        row.c_out(process, sigma) ** 2, 0.25 * (1 - row.c_skip(process, sigma))
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__}")
def test_edm_has_unit_variance_in_and_out_for_every_process(process):
    # the four equally likely combinations of x0 = +-sd and eps = +-1 have the moments that matter
    row, t = build("edm", sigma_data=0.3), inside(process)
    x0 = np.tile(0.3 * np.array([1.0, 1, -1, -1]), (len(t), 1))
    eps = np.tile([1.0, -1, 1, -1], (len(t), 1))
    target = row.target(process, t, x0, eps)
    np.testing.assert_allclose(np.mean(target**2, 1), 1, rtol=1e-13)  # loss 1 at F = 0
    given = row.c_in(process, t)[:, None] * process.perturb(x0, eps, t)
    np.testing.assert_allclose(np.mean(given**2, 1), 1, rtol=1e-13)


def test_edm_with_unit_data_is_minus_v():
    t, process = np.linspace(0.01, 1, 9), VP()
    x0, eps = pair(9)
    got = build("edm", sigma_data=1).target(process, t, x0, eps)
    np.testing.assert_allclose(got, -V().target(process, t, x0, eps), atol=1e-15)


@pytest.mark.parametrize("process", [RectifiedFlow(), Cosine()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", ["velocity", "x0", "v", "edm"])
def test_rows_without_division_by_alpha_are_finite_at_both_ends(kind, process):
    row = build(kind)
    for t in (np.array([0.0, 1.0]), jnp.array([0.0, 1.0])):
        x0, eps = pair(2)
        for f in (row.c_skip, row.c_out, row.c_in, row.c_noise):
            assert np.all(np.isfinite(f(process, t)))
        np.testing.assert_allclose(recovered(row, process, t, x0, eps), x0, atol=1e-6)


def test_what_the_network_is_told():
    table, t = Table(), np.array([1.0, 998.0, 1000.0])

    def told(process, t, **fields):
        return np.asarray(build("eps", **fields).c_noise(process, t))

    np.testing.assert_array_equal(told(table, t), [0, 997, 999])
    np.testing.assert_array_equal(told(table, t, time="index"), [0, 997, 999])
    np.testing.assert_array_equal(told(table, t, time="t"), t)
    np.testing.assert_allclose(told(VP(), [0.5], time_scale=999), [499.5])
    np.testing.assert_allclose(told(VE(), [1.0], time="sigma"), [50], rtol=1e-6)
    np.testing.assert_allclose(told(EDM(), [80.0], time="log_sigma"), [np.log(80)], rtol=1e-6)
    # of sigma/alpha: what an EDM network sees when it is run on the straight path
    seen = build("edm").c_noise(RectifiedFlow(), np.array([0.3]))
    np.testing.assert_allclose(seen, [np.log(0.3 / 0.7) / 4], rtol=1e-6)
    assert told(table, t).dtype == np.float32
    with pytest.raises(UserError, match=r"precond\.time"):
        build("eps", time="index").check(VP())
    with pytest.raises(UserError, match="time: 'sigmas' is unknown"):
        build("eps", time="sigmas")
    with pytest.raises(UserError, match="sigma_data must be positive"):
        build("edm", sigma_data=0)


@pytest.mark.parametrize("kind", ROWS)
def test_float32_coefficients_follow_the_host(kind):
    row = build(kind)
    for process in PROCESSES:
        t = np.asarray(inside(process), np.float32)
        for f in (row.c_skip, row.c_out, row.c_in):
            got = jax.jit(lambda t, f=f, process=process: f(process, t))(jnp.asarray(t))
            want = f(process, np.asarray(t, np.float64))
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-7)


def test_reversed_velocity_is_what_sit_released():
    """Their time s = 1 - t runs from noise to data, and the linear path's target is x0 - eps."""
    process, kind = RectifiedFlow(), PRECONDS.build({"name": "velocity", "reverse": True})
    rng = np.random.default_rng(0)
    x0, eps, t = rng.normal(size=(3, 2)), rng.normal(size=(3, 2)), np.array([0.0, 0.3, 1.0])
    target = kind.target(process, t, x0, eps)
    np.testing.assert_allclose(target, x0 - eps, rtol=1e-15)
    np.testing.assert_allclose(kind.c_noise(process, t), 1 - t, rtol=1e-6)
    x = process.perturb(x0, eps, t)
    skip, out = kind.c_skip(process, t), kind.c_out(process, t)
    np.testing.assert_allclose(skip[:, None] * x + out[:, None] * target, x0, atol=1e-15)
