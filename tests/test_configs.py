"""Every config: its full-size train step is shape-checked, and it runs shrunken, end to end."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.edm import cifar10 as edm_cifar10
from configs.score_sde import cifar10 as score_sde_cifar10
from configs.time_shift import cifar10 as time_shift_cifar10
from genjax.cli.config import read_file, resolve
from genjax.cli.main import main
from genjax.cli.schema import build_run, expand_run
from genjax.cli.trials import SearchRun
from genjax.core.registry import construct, expand
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
    "edm/cifar10.py": edm_cifar10.ROWS,
    "edm/faces64.py": ["ffhq-vp", "ffhq-ve", "afhqv2-vp", "afhqv2-ve"],
    "score_sde/cifar10.py": list(score_sde_cifar10.ROWS),
    "score_sde/digits.py": ["vp", "subvp", "ve"],
    "score_sde/ve256.py": ["bedroom", "church", "ffhq", "celebahq"],
    "score_sde/ve1024.py": ["celebahq", "ffhq"],
    "time_shift/cifar10.py": [*time_shift_cifar10.ROWS, "ddim-10-plain"],
    "vit_vqgan/imagenet256.py": ["SS", "BB", "SL"],
    "vit_vqgan/faces256.py": ["ffhq", "celebahq"],
    "vit_vqgan/parti.py": ["small", "decoder"],
    "vit_vqgan/digits.py": ["8", "8-plain"],
    "vit_vqgan/fashion_mnist.py": ["", "plain"],
    "edm2/imagenet512.py": ["XXS", "XS", "S", "M", "L", "XL", "XXL"],
    "edm2/imagenet64.py": ["XS", "S", "M", "L", "XL"],
}
# Rows that differ from a tested one in numbers or depth alone: their proofs are marked slow.
SAME_SHRUNKEN = re.compile(
    r"dit/imagenet(256|512).py:(?!XL/2)|sit_imagenet256.py:(S|B|L)|"
    r"edm2/imagenet512.py:(XXS|XS|M|L|XL|XXL)$|edm2/imagenet64.py:[^S]|"
    r"edm/cifar10.py:([ABCDE]|F-ve)|"
    r"edm/cifar10.py:.*-uncond|edm/faces64.py:afhqv2|edm/faces64.py:.*-ve|"
    r"time_shift/cifar10.py:(ddim-[25]0|f-pndm|.*plain)|"
    r"score_sde/.*(deep|subvp)|ve256.py:(?!church)|ve1024.py:f|"
    r"score_sde/cifar10.py:(ddpmpp|ncsnpp-cont|ddpm$|ddpm-ve)|"
    r"vit_vqgan/.*(BB|SL|celebahq|small|plain)$"
)
SAME_STEP = re.compile(
    r"edm2/.*:(XXS|S|M|L|XL|XXL)$|edm/cifar10.py:[BDE]|edm/cifar10.py:.*-uncond|edm/faces64.py:afhqv2|"
    r"time_shift/cifar10.py:(?!ddim-10$)|"
    r"ve256.py:(?!church)|ve1024.py:f|score_sde/.*(subvp|deep-vp)$|cifar10.py:ncsnpp-cont|"
    r"vit_vqgan/.*(BB|celebahq|plain)$"
)
SHARED = {
    "base.py",
    "__init__.py",
    "dit/imagenet.py",
    "edm/recipe.py",
    "edm2/recipe.py",
    "score_sde/recipe.py",
    "vit_vqgan/recipe.py",
}
FILES = sorted(
    str(p.relative_to(ROOT / "configs"))
    for p in (ROOT / "configs").rglob("*.py")
    if str(p.relative_to(ROOT / "configs")) not in SHARED
    # Those have their own tests.
    and p.parent.name not in ("search", "sweeps", "parti", "coca", "super_resolution")
)
CONFIGS = [
    f"configs/{file}" + (f":{arg}" if arg else "")
    for file in FILES
    for arg in ARGUMENTS.get(file, [""])
]


def full(spec: str, **overrides) -> dict:
    return resolve(read_file(f"{ROOT}/{spec}"), overrides.items(), expand_run)


def but_slow(same: re.Pattern) -> list:
    """Returns all configs, those of the pattern marked slow."""
    return [
        pytest.param(spec, marks=pytest.mark.slow) if same.search(spec) else spec
        for spec in CONFIGS
    ]


@pytest.mark.parametrize("spec", but_slow(SAME_STEP))
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
    several = len(run.task.players) > 1
    name = f"{run.task.players[0].name}/loss" if several else "loss"
    assert report.metrics[name][0].shape == ()


@pytest.mark.parametrize("spec", CONFIGS)
def test_targets_say_what_they_are(spec):
    target = full(spec)["target"]
    if target["value"] is not None:
        said = ("dataset", "metric", "guidance", "protocol", "source")
        assert all(target[key] for key in said)
        assert target["nfe"] or "RK45" in target["protocol"]


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
    if model["name"] == "unet":
        small |= {
            "task.model.channels": 8,
            "task.model.channel_mult": "(1,)",
            "task.model.blocks": 1,
            "task.model.attention": "(8,)",
            "task.model.head_channels": 0,
            "task.sampler.steps": 24,
        }
        if config["task"]["process"]["name"] == "table":
            small["task.process.n"] = 24
        if config["task"]["image"][-1] == 3:
            small |= {
                "task.image": "(8,8,3)",
                "data.main.image_size": 8,
                "data.main.source.name": "synthetic",
                "data.main.source.shape": "(8,8,3)",
                "data.main.source.classes": max(model["num_classes"], 1),
            }
    if config["task"].get("sampler", {}).get("grid", {}).get("name") == "ts_dpm":
        small["task.sampler.steps"] = 5  # the grid takes one more than it visits
    if model["name"] == "wide_resnet":
        small |= {"task.model.depth": 10, "task.model.widen": 1}
    if model["name"] == "edm2":
        small |= {
            "task.model.width": 8,
            "task.model.multipliers": "(1,)",
            "task.model.blocks": 1,
            "task.model.attention_levels": "(0,)",
            "task.model.head_channels": 8,
            "task.sampler.steps": 2,
        }
    if model["name"] == "vit_vqgan":
        for key in ("encoder_size", "decoder_size"):
            tower = {"depth": 1, "heads": 2, "width": 16, "hidden": 16}
            small |= {f"task.model.{key}.{name}": value for name, value in tower.items()}
        small |= {"task.model.quantizer.size": 16, "task.model.quantizer.dim": 4}
        if config["task"]["discriminator"]:
            small["task.discriminator.max_channels"] = 4
        if config["task"]["image"][0] == 256:
            small |= {
                "task.image": "(8,8,3)",
                "task.model.patch": 2,
                "task.model.grid": "(4,4)",
                "data.main.source.name": "synthetic",
                "data.main.source.shape": "(8,8,3)",
                "data.main.image_size": 8,
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
    elif config["data"]["main"]["source"]["name"] == "tfds":
        small |= {
            "task.image": "(8,8,3)",
            "data.main.source.name": "synthetic",
            "data.main.source.shape": "(8,8,3)",
            "data.main.image_size": 8,
        }
    return small


@pytest.mark.parametrize("spec", but_slow(SAME_SHRUNKEN))
def test_runs_shrunken(spec, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    overrides = flags(shrunken(full(spec), tiny_data))
    code = main(["train", "--config", spec, "--workdir", str(tmp_path / "run"), *overrides])
    assert code == 0, capsys.readouterr().err
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "search").glob("*.py")))
def test_configs_of_searches_are_whole(path):
    full = expand(SearchRun, read_file(str(path)), "config")
    assert construct(SearchRun, full).reference
