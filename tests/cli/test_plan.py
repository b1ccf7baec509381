"""`genjax plan`: what needs no TPU compiler runs everywhere, the rest where libtpu is installed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from genjax.cli import schema
from genjax.cli.config import read_file, resolve
from genjax.cli.main import main
from genjax.cli.plan import mesh_sizes
from genjax.cli.plan_text import describe
from genjax.cli.plan_works import usual
from genjax.cli.planning import plan
from genjax.core.errors import UserError
from genjax.core.types import Player
from genjax.parallel import aot, flops
from genjax.parallel.chips import CHIPS

ROOT = Path(__file__).resolve().parents[2]
DIT = str(ROOT / "configs/dit/imagenet256.py")
TINY = [
    ("task.model.depth", "2"),
    ("task.model.width", "128"),
    ("task.model.heads", "4"),
    ("data.main.batch", "64"),
]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu (extra plan) is not installed"
)


def tiny(*more):
    full = resolve(read_file(f"{DIT}:S/8"), [*TINY, *more], schema.expand_run)
    return schema.build_run(full)


def test_topologies():
    t = aot.parse_topology("v5p:8x8x8", slices=2)
    assert (t.kind, t.shape, t.chips, t.gpu) == ("v5p", (8, 8, 8), 1024, False)
    assert str(t) == "2 slices of v5p:8x8x8"
    assert aot.parse_topology("H100:8").gpu
    for wrong in ("v9:4x4", "v5e", "v5e:4", "v5p:4x4", "v5e:0x4", "v5e:4xx4", "h100:2x2"):
        with pytest.raises(UserError, match="--topology"):
            aot.parse_topology(wrong)
    with pytest.raises(UserError, match="--slices"):
        aot.parse_topology("h100:8", slices=2)


def test_mesh_flag():
    sizes = dict(mesh_sizes("fsdp=4,tensor=2,dcn_data=2"))
    assert sizes == {"data": 1, "fsdp": 4, "tensor": 2, "context": 1, "dcn_data": 2}
    assert mesh_sizes("") == []
    for wrong in ("fdsp=4", "fsdp", "fsdp=x"):
        with pytest.raises(UserError, match="--mesh"):
            mesh_sizes(wrong)


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--topology", "v5e:4"], "--topology v5e:4"),
        (["--topology", "h100:8", "--mesh", "fsdp=3"], "mesh."),
        (["--topology", "h100:8", "--mesh", "fsdp=3,x"], "--mesh"),
        (["--topology", "h100:8", "--search", "speed"], "--search speed"),
        (["--topology", "h100:8", "--config.task.model.width=130"], "width"),
        (["--topology", "h100:8", "--json", "/nowhere/x.json"], "--json"),
        (["--topology", "h100:8", "--what", "train", "--batch", "8"], "--batch"),
        (["--topology", "h100:8", "--what", "sample", "--search", "mesh"], "--search"),
        (["--topology", "h100:8", "--what", "dream"], "--what dream"),
        ([], "--topology"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, names, capsys):
    assert main(["plan", "--config", DIT, *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith("genjax: error: ") and err.count("\n") == 1 and names in err


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"genjax-image\[plan\]"):
        aot.devices(aot.parse_topology("v5e:4x4"))


def test_the_compilers_complaint_is_read():
    said = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm."
    assert aot.exceeded(said) == 20.5 * 2**30
    said = (
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (110.40G) exceeds available HBM (95.74G)."
    )
    assert aot.exceeded(said) == 110.4 * 2**30
    assert aot.exceeded("INTERNAL: something else") is None


def test_the_usual_step_is_that_of_the_most_frequent_players():
    def player(name, **fields):
        return Player(name, (name,), lambda *_: None, **fields)

    players = (player("g"), player("d", start=100), player("r1", every=16, start=100))
    assert [p.name for p in usual(players)] == ["g", "d"]


def test_flops_of_products_scans_and_convolutions():
    def f(x, w, k, image):
        def body(x, _):
            return jnp.tanh(x @ w), None

        x, _ = jax.lax.scan(body, x, length=7)
        y = jax.lax.conv_general_dilated(
            image, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x, y

    shapes = [(4, 8), (8, 8), (3, 3, 5, 6), (2, 16, 16, 5)]
    jaxpr = jax.make_jaxpr(f)(*map(jnp.zeros, shapes))
    assert flops.count(jaxpr) == 7 * 2 * 4 * 8 * 8 + 2 * (2 * 16 * 16 * 6) * 9 * 5


def test_gradients_of_a_strided_convolution_cost_two_more_passes():
    def f(k, x):
        y = jax.lax.conv_general_dilated(
            x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(y))

    k, x = jnp.zeros((2, 2, 5, 6)), jnp.zeros((1, 8, 8, 5))
    forward = flops.count(jax.make_jaxpr(f)(k, x))
    assert forward == 2 * (4 * 4 * 6) * 4 * 5
    assert flops.count(jax.make_jaxpr(jax.value_and_grad(f, (0, 1)))(k, x)) == 3 * forward


def test_what_is_computed_again_counts_again():
    def f(w, x):
        return jnp.sum(jax.checkpoint(lambda w, x: jnp.sin(jnp.sin(x @ w) @ w))(w, x))

    w, x = jnp.zeros((8, 8)), jnp.zeros((4, 8))
    product = 2 * 4 * 8 * 8
    forward = flops.count(jax.make_jaxpr(f)(w, x))
    both = flops.count(jax.make_jaxpr(jax.grad(f, (0, 1)))(w, x))
    assert forward == 2 * product and both >= 3 * forward


def test_a_plan_for_gpus_from_the_lowered_program():
    topology = aot.parse_topology("h100:8")
    run = tiny(("mesh.fsdp", "8"), ("mesh.data", "1"), ("rules.replicate_below", "0"))
    found = plan(run, topology, jax.devices("cpu")[:8])
    assert found["chips"] == 8 and found["mesh"]["fsdp"] == 8 and found["batch"] == 64
    model = 3 * 64 * run.task.forward_flops()
    assert found["flops_per_step"] == model
    # Forward and backward, less what the first layer's inputs need no gradient for; with remat.
    assert 0.9 * model < found["program_flops"] < 1.4 * model
    state = found["state_bytes"]
    assert state["parameters"] < 4 * found["params"] / 8 * 1.2
    assert state["ema"] == state["parameters"]
    assert state["optimizer"] == pytest.approx(2 * state["parameters"], rel=0.01)
    assert state["frozen"] > 300e6  # the autoencoder
    assert found["bytes_per_chip"]["capacity"] == CHIPS["h100"].memory
    assert found["mfu_bound"] <= 1 and found["roofline_seconds"] > 0
    assert "step_seconds" in found["missing"]
    assert found["steps"] == 400_000 * 256 // 64
    json.dumps(found)
    text = "\n".join(describe({"config": "x", "cost": 3.0, **found}))
    assert "missing" in text and "cost 3" in text


def test_a_plan_of_samples_counts_every_evaluation():
    topology = aot.parse_topology("h100:8")
    run = tiny(("mesh.fsdp", "8"), ("mesh.data", "1"), ("task.sampler.steps", "6"))
    found = plan(run, topology, jax.devices("cpu")[:8], "sample", 10)
    assert found["batch"] == 16 and found["players"] == []  # rounded up to the devices
    network = 6 * 16 * run.task.forward_flops()
    decoder = found["program_flops"] - network
    # Beside six passes of the network, one of the decoder: more than 0.5 TFLOP an image.
    assert 16 * 0.5e12 < decoder < 16 * 3e12
    assert found["state_bytes"].keys() == {"parameters", "frozen"}
    assert found["calls"] == 1 and found["images_per_second"] > 0
    assert "1,000 take" in "\n".join(describe({"config": "x", **found}))
    json.dumps(found)


PARTI = [
    ("task.model.width", "64"),
    ("task.model.hidden", "256"),
    ("task.model.depth", "3"),
    ("task.model.encoder_depth", "1"),
    ("task.model.heads", "8"),
    ("mesh.data", "2"),
    ("mesh.fsdp", "1"),
    ("mesh.tensor", "4"),
]


def test_a_plan_of_a_decoding_step_spreads_the_cache():
    topology = aot.parse_topology("h100:8")
    full = resolve(read_file(str(ROOT / "configs/parti/parti.py:350M")), PARTI, schema.expand_run)
    run = schema.build_run(full)
    found = plan(run, topology, jax.devices("cpu")[:8], "decode", 16)
    model = run.task.model
    slots, rows = len(model.seen), 2 * 16  # each image and its null
    cache = 2 * model.depth * rows * (slots + model.text_length) * model.width * 2  # bfloat16
    beside = 16 * 1024 * 4 + rows * (model.width * 4 + model.text_length)  # codes, start, padding
    assert found["state_bytes"]["cache"] == cache / 8 + beside / 2
    assert found["calls"] == 1024 and found["what"] == "decode"
    # A 1024th of a pass over an image, without what attention sees of codes out of the ring.
    whole = rows * run.task.forward_flops() / 1024
    assert 0.5 * whole < found["program_flops"] < 1.1 * whole
    with pytest.raises(UserError, match="--what decode"):
        plan(tiny(), topology, jax.devices("cpu")[:8], "decode")


def test_the_published_flops():
    """Sheet of DiT: 118.64 GMAC forward at 256 pixels for XL/2; within 2 per cent."""
    full = resolve(read_file(f"{DIT}:XL/2"), [], schema.expand_run)
    assert schema.build_run(full).task.forward_flops() == pytest.approx(2 * 118.64e9, rel=0.02)


@needs_libtpu
@pytest.mark.slow
def test_a_plan_by_the_tpu_compiler(tmp_path):
    """As users call it, in a process of its own: libtpu reads its environment once."""
    out = tmp_path / "plan.json"
    command = [sys.executable, "-m", "genjax.cli.main", "plan", "--config", f"{DIT}:S/8"]
    command += ["--topology", "v5e:2x2", "--mesh", "fsdp=4", "--json", str(out)]
    command += [f"--config.{key}={value}" for key, value in TINY]
    changed = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    env = {k: v for k, v in os.environ.items() if k not in changed}
    done = subprocess.run(
        command, cwd=ROOT, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    memory = found["bytes_per_chip"]
    assert memory["fits"] and 0 < memory["total"] < memory["capacity"] == 16 * 2**30
    assert memory["arguments"] > sum(found["state_bytes"].values())
    assert found["compile_seconds"] > 0
    if "step_seconds" not in found["missing"]:
        assert 0 < found["mfu"] < found["mfu_bound"] <= 1
        assert found["step_seconds"] > found["roofline_seconds"] > 0
