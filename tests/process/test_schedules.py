"""The field's other schedules: sigmoid, shifted and offset cosine, zero terminal SNR."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.process import PROCESSES, Cosine, CosineVP, RectifiedFlow, Table
from genjax.process.precond import PRECONDS
from genjax.solvers import GRIDS
from tests.process import test_gaussian

NEW = [
    CosineVP(),
    Cosine(shift=0.25),
    Table(betas="sigmoid"),
    Table(betas="scaled_linear", zero_snr=True),
]


@pytest.mark.parametrize("process", NEW, ids=str)
def test_they_are_processes_like_the_others(process):
    test_gaussian.test_derivatives_are_those_of_alpha_and_sigma(process)
    test_gaussian.test_the_sampling_ode_is_the_same_for_every_process(process)
    test_gaussian.test_lam_and_t_are_inverse(process)
    test_gaussian.test_graph_and_host_agree_and_differ_in_precision_only(process)
    t = test_gaussian.interior(process)
    np.testing.assert_allclose(process.alpha(t) ** 2 + process.sigma(t) ** 2, 1, atol=1e-14)
    assert process.alpha(0.0) == pytest.approx(1, abs=1e-15) and process.sigma(0.0) == 0


def test_zero_terminal_snr_has_the_published_levels():
    table = Table(betas="scaled_linear", zero_snr=True)
    abar = table.nodes.abar[1:]
    assert abar[0] == pytest.approx(0.99915, rel=1e-12)  # unchanged
    assert abar[500] == pytest.approx(0.24101878, rel=2e-8)
    assert abar[998] == pytest.approx(1.9678881e-7, rel=2e-7)
    assert abar[999] == 0 and table.alpha(1000) == 0 and table.sigma(1000) == 1
    root = np.sqrt(np.cumprod(1 - Table(betas="scaled_linear").beta_values()))
    np.testing.assert_allclose(
        np.sqrt(abar), (root - root[-1]) * root[0] / (root[0] - root[-1]), atol=1e-15
    )
    beta = table.beta_values()
    assert beta[-1] == 1
    np.testing.assert_allclose(np.cumprod(1 - beta), abar, rtol=1e-9, atol=1e-20)


def test_zero_terminal_snr_between_the_last_two_levels():
    """alpha/sigma falls linearly to 0, which keeps every derivative finite."""
    table = Table(zero_snr=True)
    t = np.array([999.0, 999.25, 999.75, 1000.0])
    snr = table.alpha(t) / table.sigma(t)
    np.testing.assert_allclose(snr, snr[0] * (1000 - t), atol=1e-18)
    assert np.all(np.isfinite(table.dalpha(t))) and np.all(np.isfinite(table.dsigma(t)))
    assert table.dalpha(1000.0) == pytest.approx(-snr[0], rel=1e-12)
    lam = 1 / snr[1:3]
    np.testing.assert_allclose(table.t_of_lam(lam), t[1:3], rtol=1e-12)
    assert table.t_of_lam(np.inf) == 1000
    single = jax.jit(table.alpha)(jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(single, table.alpha(t), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("name", ["eps", "score"])
def test_zero_terminal_snr_needs_v_or_x0(name):
    for process, fine in ((Table(zero_snr=True), False), (Table(), True)):
        precond = PRECONDS.build({"name": name})
        if fine:
            precond.check(process)
        else:
            with pytest.raises(UserError, match=r"zero_snr.*v or x0"):
                precond.check(process)
    PRECONDS.build({"name": "v"}).check(Table(zero_snr=True))


def test_shifted_cosine_is_simple_diffusions():
    """log(alpha^2/sigma^2) = -2 log tan(pi t/2) + 2 log(64/d)."""
    t = np.linspace(0.02, 0.98, 9)
    for d in (64, 256):
        process = Cosine(shift=d / 64)
        wanted = -2 * np.log(np.tan(np.pi * t / 2)) + 2 * np.log(64 / d)
        np.testing.assert_allclose(2 * process.logsnr_half(t), wanted, atol=1e-12)
    assert Cosine(shift=4.0).alpha(1.0) == 0


def test_offset_cosine_is_the_table_in_continuous_time():
    process = CosineVP()
    t = np.linspace(0.01, 0.9946, 7)
    angle = np.pi / 2 * (t + 0.008) / 1.008
    wanted = np.log(np.cos(angle)) - np.log(np.cos(np.pi / 2 * 0.008 / 1.008))
    np.testing.assert_allclose(np.log(process.alpha(t)), wanted, atol=1e-12)
    table = Table(betas="cosine")
    i = np.arange(1, 990.0)
    np.testing.assert_allclose(process.alpha(i / 1000), table.alpha(i), rtol=1e-9)
    assert process.t_max == 0.9946 and process.alpha(process.t_max) > 0.006
    # 1 - alpha^2 keeps its digits where alpha is nearly 1
    exact = np.sin(np.pi / 2 / 1.008 * 1e-5) * np.sin(np.pi / 2 / 1.008 * (1e-5 + 0.016))
    single = jax.jit(process.sigma)(jnp.float32(1e-5))
    assert float(single) ** 2 == pytest.approx(exact / np.cos(np.pi / 2 * 0.008 / 1.008) ** 2, 1e-5)


def test_sigmoid_betas():
    beta = Table(betas="sigmoid").beta_values()
    i = 250
    u = -6 + 12 * i / 999
    assert beta[i] == pytest.approx(1e-4 + (2e-2 - 1e-4) / (1 + np.exp(-u)), rel=1e-12)
    assert Table(betas="sigmoid", lo=2e-4, hi=1e-2).beta_values()[-1] < 1e-2


def test_flow_shifts():
    """t' = s t/(1 + (s - 1) t); s = e^mu, mu linear in the tokens: 256 to 0.5, 4096 to 1.15."""
    flow = RectifiedFlow()
    t = GRIDS.build({"name": "uniform", "shift": 3.0}).times(flow, 4)
    assert t[2] == pytest.approx(0.75, rel=1e-14)
    for tokens, mu in ((256, 0.5), (4096, 1.15), (2176, 0.825)):
        t = GRIDS.build({"name": "uniform", "tokens": tokens}).times(flow, 4)
        s = np.exp(mu)
        u = np.linspace(1, 0, 5)
        np.testing.assert_allclose(t, s * u / (1 + (s - 1) * u), rtol=1e-13)
    with pytest.raises(UserError, match="tokens"):
        GRIDS.build({"name": "uniform", "tokens": 256, "shift": 2.0})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "cosine", "shift": 0.0}, "shift"),
        ({"name": "cosine_vp", "s": 0.0}, "s must"),
        ({"name": "cosine_vp", "t_end": 1.5}, "t_end"),
        ({"name": "table", "betas": "sigmoid", "hi": -1.0}, "positive"),
    ],
)
def test_wrong_schedules_say_so(fields, words):
    with pytest.raises(UserError, match=words):
        PROCESSES.build(fields)
