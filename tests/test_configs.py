"""Every config: its full-size train step is shape-checked, and it runs shrunken, end to end."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.cli.config import read_file, resolve
from genjax.cli.main import main
from genjax.cli.schema import build_run, expand_run
from genjax.data import array_record
from genjax.models.vae import KLVAE
from genjax.training.state import planned, transforms
from genjax.training.step import Recipe, make_step
from genjax.weights import save
from tests.end_to_end.commands import flags

ROOT = Path(__file__).resolve().parents[1]
DITS = [f"{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)]
# Config file -> arguments that it takes ("" for none). Files of shared parts are not configs.
ARGUMENTS = {
    "dit/imagenet256.py": DITS,
    "dit/imagenet512.py": DITS,
    "dit/sit_imagenet256.py": ["S/2", "B/2", "L/2", "XL/2"],
}
SHARED = {"base.py", "__init__.py", "dit/imagenet.py"}
FILES = sorted(
    str(p.relative_to(ROOT / "configs"))
    for p in (ROOT / "configs").rglob("*.py")
    if str(p.relative_to(ROOT / "configs")) not in SHARED
)
CONFIGS = [
    f"configs/{file}" + (f":{arg}" if arg else "")
    for file in FILES
    for arg in ARGUMENTS.get(file, [""])
]


def full(spec: str, **overrides) -> dict:
    return resolve(read_file(f"{ROOT}/{spec}"), overrides.items(), expand_run)


@pytest.mark.parametrize("spec", CONFIGS)
def test_full_size_step_has_consistent_shapes(spec):
    run = build_run(full(spec))
    mesh = run.mesh.build(jax.devices()[:1])
    batch = run.data["main"].batch

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
        field: jax.ShapeDtypeStruct((batch, *spec.shape), spec.dtype)
        for field, spec in run.task.streams["main"].items()
    }
    step = make_step(recipe, run.task.players)
    scalar = jax.ShapeDtypeStruct((), jnp.uint32)
    state, report = jax.eval_shape(step, abstract, {}, {"main": rows}, scalar, scalar)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract
    )
    assert report.metrics["loss"][0].shape == ()


@pytest.mark.parametrize("spec", CONFIGS)
def test_targets_say_what_they_are(spec):
    target = full(spec)["target"]
    if target["value"] is not None:
        said = ("dataset", "metric", "nfe", "guidance", "protocol", "source")
        assert all(target[key] for key in said)


@pytest.fixture(scope="module")
def tiny_data(tmp_path_factory):
    """An autoencoder of a few channels, and moments as it would have made them."""
    root = tmp_path_factory.mktemp("tiny")
    vae = KLVAE(block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4)
    variables = vae.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
    save("diffusers-vae", vae, variables, str(root / "vae.safetensors"))
    rng = np.random.default_rng(0)
    meta = {"num_classes": 1000}
    writer = array_record.Writer(str(root / "moments"), meta, shard=0, num_shards=1)
    for i in range(16):
        moments = rng.normal(size=(8, 8, 8)).astype(np.float32)
        writer.write({"moments": moments, "moments_flip": moments[:, ::-1], "label": np.int32(i)})
    writer.close()
    array_record.finalise(str(root / "moments"), 1, meta)
    return root


def shrunken(config: dict, root: Path) -> dict:
    """Returns overrides that make a step of the config take milliseconds."""
    small = {
        "data.main.batch": 8,
        "train.images": 16,
        "log.every_images": 8,
        "log.tensorboard": False,
        "samples.every_images": 16,
        "samples.num": 2,
        "heldout.every_images": 0,
    }
    model = config["task"]["model"]
    if model["name"] == "dit":
        small |= {
            "task.model.depth": 2,
            "task.model.width": 32,
            "task.model.heads": 2,
            "task.sampler.steps": 4,
        }
    if config["task"].get("latents"):
        small |= {
            "task.image": "(64,64,3)",
            "task.codec.path": str(root / "vae.safetensors"),
            "task.codec.model.block_out_channels": "(8,8,8,8)",
            "task.codec.model.layers_per_block": 1,
            "task.codec.model.norm_num_groups": 4,
            "data.main.source.path": str(root / "moments"),
        }
    elif config["data"]["main"]["source"]["name"] == "fashion_mnist":
        small |= {"data.main.source.name": "synthetic", "data.main.source.shape": "(28,28,1)"}
    return small


@pytest.mark.parametrize("spec", CONFIGS)
def test_runs_shrunken(spec, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides = flags(shrunken(full(spec), tiny_data))
    code = main(["train", "--config", spec, "--workdir", str(tmp_path / "run"), *overrides])
    assert code == 0, capsys.readouterr().err
    assert list((tmp_path / "run" / "checkpoints").iterdir())
