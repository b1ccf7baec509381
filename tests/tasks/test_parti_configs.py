"""The full-size train step of Parti's, VIM's, CoCa's and super-resolution's configs is sound."""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from genjax.cli.config import read_file, resolve
from genjax.cli.schema import build_run, expand_run
from genjax.tasks import Enlarger
from genjax.training.state import planned, transforms
from genjax.training.step import Recipe, make_step

ROOT = Path(__file__).resolve().parents[2]
SPECS = [f"parti/parti.py:{s}" for s in ("350M", "750M", "3B", "20B", "3B-high")]
SPECS += ["parti/vim.py:VIM-B", "parti/vim.py:VIM-L", "parti/shapes.py"]
SPECS += ["coca/image_text.py", "coca/shapes.py", "super_resolution/shapes.py"]
SPECS += ["super_resolution/parti.py:512", "super_resolution/parti.py:1024"]


@pytest.mark.parametrize("spec", SPECS)
def test_step(spec):
    run = build_run(resolve(read_file(f"{ROOT}/configs/{spec}"), {}.items(), expand_run))
    mesh, batch = run.mesh.build(jax.devices()[:1]), run.data["main"].batch

    def make(params):
        return transforms(run.task.players, run.optimizer, params, batch, run.train.images)

    abstract, _, tx = planned(run.task, make, tuple(run.ema), (), mesh, run.rules)
    recipe = Recipe(
        players=run.task.players,
        transforms=tx,
        emas=run.ema,
        batch=batch,
        accumulate=run.train.accumulate,
        mesh=mesh,
        rules=run.rules,
        shardings=jax.tree.map(lambda x: x.sharding, abstract),
    )
    rows = {
        name: jax.ShapeDtypeStruct((batch, *field.shape), field.dtype)
        for name, field in run.task.streams["main"].items()
    }
    scalar = jax.ShapeDtypeStruct((), jnp.uint32)
    step = make_step(recipe, run.task.players)
    state, report = jax.eval_shape(step, abstract, frozen(run.task), {"main": rows}, scalar, scalar)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(state) == shapes(abstract)
    name = "loss" if len(run.task.players) == 1 else "model/loss"
    assert report.metrics[name][0].shape == ()


def frozen(task):
    """Returns the shapes of the tokenizer that super-resolution's step runs."""
    if not isinstance(task, Enlarger):
        return {}
    module, image = task.codec.model, jnp.zeros((1, *task.codec.image))
    made = jax.eval_shape(lambda: module.init(jax.random.key(0), image))
    return {"codec": nn.unbox({"params": made["params"]})}
