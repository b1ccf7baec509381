"""EDM2 through the whole stack: untrained sampling, forced normalisation, post-hoc averages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import genjax
from genjax import weights
from genjax.checkpoint import Checkpoints, Workdir
from genjax.cli.main import main
from genjax.cli.schema import build_run, expand_run
from genjax.cli.trained import read_params
from genjax.cli.workdir import read_config
from genjax.core.registry import construct, expand
from genjax.core.tree import flatten
from genjax.solvers import solve
from genjax.tasks import Diffusion

NETWORK = {
    "name": "edm2", "width": 8, "multipliers": (1,), "blocks": 1, "attention_levels": (),
    "head_channels": 8, "num_classes": 10,
}  # fmt: skip
TASK = {
    "model": NETWORK,
    "process": {"name": "edm"},
    "precond": {"name": "edm"},
    "objective": {"name": "edm2"},
    "times": {"name": "lognormal", "mean": -0.4, "std": 1.0},
    "image": (8, 8, 1),
    "levels": 17,
    "condition_dropout": 0.0,
    "sampler": {"solver": {"name": "heun", "space": "lam"}, "grid": {"name": "karras"}},
}
CONFIG = """
from configs import base

def get_config():
    c = base.get_base()
    c.task = dict(name="diffusion", **{task!r})
    c.data.main = dict(source=dict(name="digits"), batch=8)
    c.optimizer.model = dict(
        name="adam", learning_rate=1e-2, b2=0.99, freeze=("/(freqs|phases)$",),
        schedule=dict(name="inverse_time", reference=1000.0, warmup=400.0),
    )
    c.ema = dict(
        long=dict(name="power", sigma_rel=0.10), short=dict(name="power", sigma_rel=0.05),
        between=dict(name="power", sigma_rel=0.075),
    )
    c.train.images = {images}
    c.checkpoint.every_images = {images}
    c.checkpoint.ema_every_images = {images} // 8
    c.log.every_images = 512
    c.log.tensorboard = False
    return c
"""
IMAGES = 8 * 512


@pytest.mark.parametrize(("steps", "want"), [(18, 0.52762467), (40, 0.50487691)])
def test_untrained_network_samples_gaussian_data_exactly(steps, want):
    """D = c_skip x is exact for N(0, sigma_data^2): Heun's own error is all that is left."""
    task = construct(Diffusion, expand(Diffusion, TASK, "task"), "task").with_sampler(steps=steps)
    params = jax.jit(lambda key: task.init(key)["params"]["model"])(jax.random.key(0))
    params = jax.tree.map(lambda p: p.value, params, is_leaf=lambda p: hasattr(p, "names"))

    def denoise(x, t, cond, inputs=None):
        return task.denoiser(params, x, t, cond, inputs=inputs)

    predict, memory = task.sampler.guidance.wrap(denoise, {"label": jnp.zeros(1, jnp.int32)}, None)
    rows = jax.tree.map(lambda a: np.asarray(a, np.float32), task.rows())
    x = 80.0 * jnp.ones((1, 8, 8, 1))
    run = jax.jit(lambda x: solve(task.solver, predict, rows, x, jax.random.key(1)[None], memory))
    found = np.asarray(task.solver.output(run(x)))
    assert task.nfe == 2 * steps - 1
    np.testing.assert_allclose(found, want, rtol=1e-5)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A run of 512 steps with snapshots of its averages in eight places."""
    folder = tmp_path_factory.mktemp("edm2")
    config = folder / "config.py"
    config.write_text(CONFIG.format(task=TASK, images=IMAGES))
    path = str(folder / "run")
    assert main(["train", "--config", str(config), "--workdir", path]) == 0
    return path


@pytest.mark.slow
def test_posthoc_average_from_disk_is_the_one_that_was_trained(workdir):
    run = build_run(expand_run(read_config(Workdir(workdir))))
    want, _ = Checkpoints(workdir).restore_params("between")
    ends = [Checkpoints(workdir).restore_params(name)[0] for name in ("long", "short")]
    # As if the third average had never been there.
    laws = {name: law for name, law in run.ema.items() if name != "between"}
    found, step = read_params(workdir, dataclasses.replace(run, ema=laws), "posthoc:0.075")
    assert step == 512 and len(Checkpoints(workdir).snapshots()) == 8

    def distance(a, b):
        pairs = zip(flatten(a).values(), flatten(b).values(), strict=True)
        return np.sqrt(sum(np.sum(np.square(np.float64(x) - np.float64(y))) for x, y in pairs))

    apart = distance(*ends)
    assert distance(found, want) < 0.02 * apart
    assert min(distance(end, want) for end in ends) > 0.2 * apart  # neither stored one would do


@pytest.mark.slow
def test_trained_weights_are_normalised_and_their_constants_stand_still(workdir):
    params, _ = Checkpoints(workdir).restore_params("raw")
    moved = 0
    for path, leaf in flatten(params["model"]).items():
        if path.endswith(("kernel", "table")):
            rms = np.sqrt(np.mean(np.square(leaf), axis=tuple(range(leaf.ndim % 2, leaf.ndim - 1))))
            np.testing.assert_allclose(rms, 1, atol=3e-4, err_msg=path)
        moved += path.endswith("gain") and bool(np.all(np.abs(leaf) > 1e-3))
    assert moved  # gains are trained and not normalised
    average, _ = Checkpoints(workdir).restore_params("long")
    for path, leaf in flatten(average["model"]).items():
        if path.endswith(("freqs", "phases")):
            np.testing.assert_allclose(leaf, flatten(params["model"])[path], rtol=1e-5)


@pytest.mark.slow
def test_a_trained_network_goes_out_in_the_public_layout_and_comes_back(workdir, tmp_path):
    file, folder = str(tmp_path / "out.safetensors"), str(tmp_path / "folder")
    assert main(["convert", "--to", "edm2", "--in", workdir, "--out", file]) == 0
    arguments = ["convert", "--from", "edm2", "--in", file, "--out", folder]
    assert main([*arguments, "--field", "channels_per_head=8"]) == 0
    module, variables = weights.load("edm2", file, channels_per_head=8)
    ours, back = genjax.load(workdir), genjax.load(folder)
    assert back.task.model == ours.task.model and back.task.process == ours.task.process
    x, sigma = 2 * jnp.ones((2, 8, 8, 1)), jnp.array([0.5, 3.0])
    want = ours.denoise(x, sigma, [1, 2])
    np.testing.assert_allclose(back.denoise(x, sigma, [1, 2]), want, atol=1e-5)
    raw = jax.jit(module.apply)(variables, x, sigma, jnp.array([1, 2]))
    np.testing.assert_allclose(raw, want, atol=1e-5)
