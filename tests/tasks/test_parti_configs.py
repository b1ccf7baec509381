"""The full-size train step of every Parti and VIM config has consistent shapes."""

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from genjax.cli.config import read_file, resolve
from genjax.cli.schema import build_run, expand_run
from genjax.training.state import planned, transforms
from genjax.training.step import Recipe, make_step

ROOT = Path(__file__).resolve().parents[2]
SPECS = [f"parti.py:{s}" for s in ("350M", "750M", "3B", "20B", "3B-high")]
SPECS += ["vim.py:VIM-B", "vim.py:VIM-L", "shapes.py"]


@pytest.mark.parametrize("spec", SPECS)
def test_step(spec):
    run = build_run(resolve(read_file(f"{ROOT}/configs/parti/{spec}"), {}.items(), expand_run))
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
    state, report = jax.eval_shape(step, abstract, {}, {"main": rows}, scalar, scalar)
    shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert shapes(state) == shapes(abstract)
    assert report.metrics["loss"][0].shape == ()
