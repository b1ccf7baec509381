import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from genjax.core import keys as keys_lib
from genjax.core.arrays import bcast
from genjax.core.types import Prediction
from genjax.process.gaussian import VE, VP, SubVP
from genjax.process.table import Table
from genjax.solvers import GRIDS, GUIDANCES, noise, sample
from genjax.solvers.correctors import CORRECTORS
from genjax.solvers.predictor_corrector import PC
from genjax.solvers.predictors import PREDICTORS
from tests.solvers.solver_toys import bound, gaussian, keys, predictor

WEIGHTS, MEANS, STDS = (0.3, 0.7), (-0.5, 0.4), (0.1, 0.2)


def pc(process, predictor="reverse_diffusion", corrector="none", **fields):
    corrector = corrector if isinstance(corrector, dict) else {"name": corrector}
    return bound("pc", process, predictor={"name": predictor}, corrector=corrector, **fields)


def score_sde(process, n, **fields):
    return GRIDS.build({"name": "score_sde", **fields}).times(process, n)


def mixture(process):
    """Returns D(x, t) for data whose every pixel is drawn from the mixture; x [b, ...]."""
    w, m, s = (np.array(v) for v in (WEIGHTS, MEANS, STDS))

    def denoise(x, t):
        alpha, sigma = (bcast(f(t), x)[..., None] for f in (process.alpha, process.sigma))
        variance = (alpha * s) ** 2 + sigma**2
        away = x[..., None] - alpha * m
        logits = jnp.log(w) - 0.5 * jnp.log(variance) - away**2 / (2 * variance)
        return jnp.sum(jax.nn.softmax(logits) * (m + alpha * s**2 / variance * away), -1)

    return denoise


def silence(monkeypatch):
    """Every z is 0 from here on."""
    monkeypatch.setattr(keys_lib, "normal", lambda k, shape, dtype: jnp.zeros((len(k), *shape)))


@pytest.mark.parametrize(
    ("process", "name", "corrector", "steps"),
    [
        (VE(), "reverse_diffusion", "none", 1),
        (VE(), "ancestral", "ald", 1),
        (VP(), "euler_maruyama", "none", 1),
        (VP(), "probability_flow", "ald", 2),
        (SubVP(), "euler_maruyama", "none", 1),
        (SubVP(), "reverse_diffusion", "ald", 1),
    ],
    ids=lambda v: v if isinstance(v, (str, int)) else type(v).__name__,
)
def test_the_compiled_float32_sampler_has_the_gains_of_the_rules(
    monkeypatch, process, name, corrector, steps
):
    """N = 1000 legacy steps without noise: x times the product of all gains, in float32.

    The gains are written with scores here, as the paper prints them.
    """
    n, std, r = 1000, 0.5, 0.05
    corrector = {"name": corrector, "snr": r} if corrector == "ald" else corrector
    fields = {"corrector_steps": steps, "discretisation": "legacy", "denoise": False}
    solver = pc(process, name, corrector, **fields)
    times = score_sde(process, n)
    want = 1.0
    for k in range(n):
        t, i = times[k], n - 1 - k
        s = -1 / ((process.alpha(t) * std) ** 2 + process.sigma(t) ** 2)
        beta = 0.1 / n + (20 - 0.1) / n * i / (n - 1)
        alpha, f, g2 = 1.0, process.drift(t), process.diffusion2(t)
        if isinstance(process, SubVP):
            alpha, forward, variance = 1 - process.beta(t) / n, f / n, g2 / n
        elif isinstance(process, VP):
            alpha, forward, variance = 1 - beta, np.sqrt(1 - beta) - 1, beta
        else:
            below = 0.01 * 5000 ** ((i - 1) / (n - 1)) if i else 0.0
            forward, variance = 0.0, (0.01 * 5000 ** (i / (n - 1))) ** 2 - below**2
        if corrector != "none":
            want *= (1 + 2 * alpha * (r * process.sigma(t)) ** 2 * s) ** steps
        want *= {
            "euler_maruyama": 1 - (f - g2 * s) / n,
            "reverse_diffusion": 1 - forward + variance * s,
            "probability_flow": 1 - forward + variance * s / 2,
            "ancestral": 1 + variance * s,  # VE's
        }[name]
    silence(monkeypatch)
    x = jnp.full((2, 1), 1.0 / want, jnp.float32)  # so that the result is 1, not underflow
    found = jax.jit(
        lambda rows, x: sample(solver, predictor(gaussian(process, 0.0, std)), rows, x, keys(2))
    )(solver.rows(times), x)
    np.testing.assert_allclose(found, 1.0, rtol=2e-4)


@pytest.mark.parametrize(
    ("process", "name", "corrector"),
    [
        (VE(), "reverse_diffusion", {"name": "langevin", "snr": 0.16}),
        (VE(), "ancestral", {"name": "langevin", "snr": 0.17, "norms": "batch"}),
        (VP(), "euler_maruyama", "none"),
        (SubVP(), "euler_maruyama", {"name": "ald", "snr": 0.05}),
        (Table(), "ancestral", {"name": "langevin", "snr": 0.05}),
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_samples_have_the_mixtures_law(process, name, corrector):
    """16,384 pixels; Kolmogorov-Smirnov distance, and the share of either component."""
    solver, n, k = pc(process, name, corrector), 250, keys(32)
    times = score_sde(process, n)
    start = process.start_std(times[0])
    rows, predict = solver.rows(times), predictor(mixture(process))
    out = jax.jit(lambda r, k: sample(solver, predict, r, noise(k, (16, 32, 1), start), k))(rows, k)
    x = np.sort(np.asarray(out, np.float64).ravel())
    cdf = sum(w * ndtr((x - m) / s) for w, m, s in zip(WEIGHTS, MEANS, STDS))
    assert np.abs(cdf - (np.arange(x.size) + 0.5) / x.size).max() < 0.02
    valley = -0.25  # 0.6 % of the left component lie above, 0.06 % of the right below
    left = x < valley
    assert left.mean() == pytest.approx(0.3, abs=0.012)
    assert x[left].mean() == pytest.approx(-0.5, abs=0.01)
    assert x[~left].std() == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize(
    ("process", "t", "x", "score"),
    [
        (VE(), 0.25, 0.0, 8.4008365190),
        (VE(), 0.5, 0.3, -0.1515893723),
        (VE(), 1.0, 1.0, -3.479684709e-4),
        (VP(), 0.25, 0.0, 0.1919699673),
        (VP(), 0.5, 0.3, -0.2806279141),
        (VP(), 1.0, 1.0, -0.9991801665),
    ],
)
def test_the_mixtures_scores_are_the_published_ones(process, t, x, score):
    with jax.enable_x64(True):
        x = jnp.full((1, 1), x, jnp.float64)
        t = jnp.full((1,), t, jnp.float64)
        found = process.score(x, t, mixture(process)(x, t))
        assert float(found[0, 0]) == pytest.approx(score, rel=2e-9)


def test_langevin_repairs_the_variance_as_its_recursion_says():
    """Reverse diffusion + Langevin, VE, 100 steps, D = 4096: |z|^2 = D and |g|^2 = D V/P^2."""
    process, n, std, r, k = VE(), 100, 0.25, 0.16, keys(24)
    times = score_sde(process, n)
    found, variance = {}, {}
    for corrector in ("none", {"name": "langevin", "snr": r}):
        solver = pc(process, corrector=corrector)
        rows, v = solver.rows(times), process.start_std(times[0]) ** 2
        for i in range(n):
            marginal = std**2 + rows["std"][i] ** 2
            if corrector != "none":
                e = 2 * r**2 * marginal**2 / v
                v = (1 - e / marginal) ** 2 * v + 2 * e
            gain = rows["a"][i] + rows["c"][i] * std**2 / marginal
            mean = gain**2 * v
            v = mean + rows["s"][i] ** 2
        name = str(corrector)
        variance[name] = mean
        predict = predictor(gaussian(process, 0.0, std))
        out = jax.jit(
            lambda r, k, solver=solver, predict=predict: sample(
                solver, predict, r, noise(k, (64, 64, 1), 50.0), k
            )
        )(rows, k)
        found[name] = np.mean(np.asarray(out, float) ** 2)
        assert found[name] == pytest.approx(mean, rel=0.015)  # 3 standard errors
    without, with_langevin = variance.values()
    assert abs(with_langevin - std**2) < 0.6 * abs(without - std**2)


PAIRS = [(p, "langevin") for p in PREDICTORS.entries] + [
    ("euler_maruyama", c) for c in CORRECTORS.entries if c != "langevin"
]


@pytest.mark.parametrize(("name", "corrector"), PAIRS)
def test_nfe_is_what_is_really_called(name, corrector):
    process, calls, steps = VP(), [], 2

    def counted(x, t):
        jax.debug.callback(lambda t: calls.append(float(t)), t)
        return gaussian(process, 0.1, 0.5)(x, t)

    n, times = 3, score_sde(process, 3)
    solver = pc(process, name, corrector, corrector_steps=steps)
    out = sample(solver, predictor(counted), solver.rows(times), jnp.ones((2, 3)), keys(2))
    jax.effects_barrier()
    each = (0 if corrector == "none" else steps) + (name != "none")
    assert len(calls) == solver.nfe(n) == n * each
    assert np.isfinite(out).all()
    np.testing.assert_allclose(calls, np.repeat(times[:-1], each), rtol=1e-6)  # all at t


def test_the_network_is_traced_once_and_other_values_never_compile_again():
    process, traces = VE(), []

    def network(x, t, cond, inputs):
        traces.append(t)
        return SimpleNamespace(x0=gaussian(process, 0.5, 0.3)(x, t), variance=None, features=None)

    label = jnp.zeros(2, jnp.int32)
    cfg = GUIDANCES.build({"name": "cfg", "weight": 2.0})
    predict, memory = cfg.wrap(network, label, label)
    solver = pc(process, corrector="langevin", corrector_steps=2)
    make = jax.jit(lambda r, x, k: sample(solver, predict, r, x, k, memory))
    for grid in ("score_sde", "uniform", "karras"):
        for snr in (0.16, 0.1):
            other = pc(process, "ancestral", {"name": "langevin", "snr": snr}, corrector_steps=2)
            times = GRIDS.build({"name": grid}).times(process, 6)
            make(cfg.rows(process, other.rows(times)), jnp.ones((2, 3)), keys(2))
    assert make._cache_size() == 1 and len(traces) == 1


def test_guidances_memory_threads_through_every_update():
    solver = pc(VE(), corrector="langevin", corrector_steps=3)
    row = jax.tree.map(lambda a: jnp.float32(a[0]), solver.rows(score_sde(VE(), 4)))

    def predict(x, row, memory):
        return Prediction(0.5 * x), memory + 1

    state = solver.step(predict, solver.init(jnp.ones((2, 3)), jnp.int32(0)), row, keys(2))
    assert int(state.memory) == 4


def test_denoise_returns_the_mean_before_the_last_noise():
    process = VP()
    times, x, k = score_sde(process, 5, end=0.1, eps=0.2), noise(keys(2), (3,)), keys(2)
    toy, solver = predictor(gaussian(process, 0.2, 0.5)), pc(process, corrector="langevin")
    rows = solver.rows(times)
    mean = sample(solver, toy, rows, x, k)
    last = sample(dataclasses.replace(solver, denoise=False).bind(process), toy, rows, x, k)
    z = keys_lib.normal(keys_lib.fold_each(keys_lib.fold_each(k, 4), 1), (3,))
    np.testing.assert_allclose(last - mean, rows["s"][-1] * z, rtol=1e-4, atol=1e-6)


def test_impose_follows_every_update_at_the_time_where_x_lies():
    """Half of the pixels are known: what comes out is them, whatever else happens."""
    process, seen, data = VE(), [], jnp.array([0.3, -0.2])

    def impose(x, mean, t, k):
        jax.debug.callback(lambda t: seen.append(float(t)), t)
        z = keys_lib.normal(k, (2,))
        x = x.at[:, :2].set(data + bcast(process.sigma(t), x) * z)
        return x, mean.at[:, :2].set(data)

    solver = pc(process, corrector="langevin", corrector_steps=2)
    constrained = solver.imposing(impose)
    assert solver.impose is None and constrained.process is process
    times, k = score_sde(process, 3), keys(4)
    rows, toy = solver.rows(times), predictor(gaussian(process, 0.0, 0.5))
    x = noise(k, (4,), 50.0)
    out = sample(constrained, toy, rows, x, k)
    jax.effects_barrier()
    want = [t for i in range(3) for t in (times[i], times[i], times[i + 1])]
    np.testing.assert_allclose(seen, want, rtol=1e-6)
    np.testing.assert_array_equal(out[:, :2], jnp.broadcast_to(data, (4, 2)))
    free = sample(solver, toy, rows, x, k)
    assert np.abs(free[:, :2] - data).max() > 0.1 and np.isfinite(out).all()


def test_imposed_noise_is_not_the_updates():
    captured = []
    solver = pc(VE()).imposing(lambda x, mean, t, k: (captured.append(k), (x, mean))[1])
    row = jax.tree.map(lambda a: jnp.float32(a[0]), solver.rows(score_sde(VE(), 4)))
    k = keys(2)
    solver.step(predictor(lambda x, t: 0 * x), solver.init(jnp.ones((2, 3)), ()), row, k)
    theirs, own = captured[0], keys_lib.fold_each(k, 0)
    assert (jax.random.key_data(theirs) != jax.random.key_data(own)).any(-1).all()


PARAMS = [jax.random.normal(jax.random.key(i), s) / 4 for i, s in enumerate([(48, 64), (64, 48)])]


def network(x, t):
    """Every output depends on all pixels of its own image only."""
    h = jnp.tanh(x.reshape(len(x), -1) @ PARAMS[0] + bcast(t, x[:, 0, 0]))
    return jnp.tanh(h @ PARAMS[1]).reshape(x.shape)


def sampler(corrector):
    solver = pc(VE(), corrector=corrector, corrector_steps=2)
    rows = solver.rows(score_sde(VE(), 8))

    @jax.jit
    def make(k):
        return sample(solver, predictor(network), rows, noise(k, (4, 4, 3), 50.0), k)

    return make


def on_eight_devices(k):
    mesh = jax.make_mesh((8,), ("data",))
    spec = jax.sharding.PartitionSpec("data")
    return jax.device_put(k, jax.sharding.NamedSharding(mesh, spec))


def test_images_depend_neither_on_batch_nor_on_devices():
    make, every = sampler("langevin"), keys(16)
    whole = np.asarray(make(every))
    assert np.std(whole) > 0.1
    parts = [make(every[i : i + 5]) for i in range(0, 15, 5)]
    np.testing.assert_allclose(np.concatenate(parts), whole[:15], atol=2e-5)
    out = make(on_eight_devices(every))
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(np.asarray(out), whole, atol=2e-5)


def test_norms_of_the_batch_span_all_devices():
    make, every = sampler({"name": "langevin", "norms": "batch"}), keys(16)
    whole = np.asarray(make(every))
    out = make(on_eight_devices(every))
    assert len(out.sharding.device_set) == 8
    np.testing.assert_allclose(np.asarray(out), whole, atol=2e-5)
    # A device's own two images alone would have other means.
    assert np.abs(np.asarray(make(every[:2])) - whole[:2]).max() > 1e-3


@dataclasses.dataclass(frozen=True)
class OwnTimes(PC):
    """Every image chooses its own time, as in the time-shift sampler."""

    def step(self, predict, state, row, keys):
        t = row["t"] * (1 - 0.01 * jnp.arange(len(state.x)))
        own = self.row(t, jnp.broadcast_to(row["t_next"], t.shape))
        return super().step(predict, state, {**row, **own}, keys)


def test_rows_of_each_image():
    """Image 0 keeps the grid's time and so must get what the plain solver gives it."""
    process, k = VP(), keys(3)
    plain = pc(process, corrector="langevin")
    own = OwnTimes(plain.predictor, plain.corrector).bind(process)
    toy = predictor(gaussian(process, 0.2, 0.5))
    rows, x = plain.rows(score_sde(process, 6)), noise(k, (4, 4, 1))
    a, b = (np.asarray(sample(s, toy, rows, x, k)) for s in (plain, own))
    np.testing.assert_allclose(a[0], b[0], atol=1e-4)
    assert np.abs(a[2] - b[2]).max() > 1e-3 and np.isfinite(b).all()
