"""`genjax prepare latents`: what is written, by how many processes, after interruptions."""

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax import weights
from genjax.cli import prepare_latents
from genjax.cli.main import main
from genjax.core.errors import UserError
from genjax.data import StreamSettings, array_record, open_source, open_stream
from genjax.models.vae import KLVAE
from genjax.tasks.codec import file_hash

SMALL = {
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
}


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """Returns (folder in the layout of diffusers, module, variables)."""
    module = KLVAE(**SMALL)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: (0.2 * rng.standard_normal(s.shape)).astype(np.float32),
        nn.meta.unbox(shapes["params"]),
    )
    variables = {"params": params}
    folder = tmp_path_factory.mktemp("vae")
    weights.save(
        "diffusers-vae", module, variables, str(folder / "diffusion_pytorch_model.safetensors")
    )
    config = {"_class_name": "AutoencoderKL", "norm_num_groups": 4, "act_fn": "silu"}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), module, variables


@pytest.fixture(autouse=True)
def no_compile_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))


def argv(vae, out, *more):
    source = () if "--source" in more else ("--source", "digits:test")
    return [
        "prepare",
        "latents",
        "--vae",
        vae[0],
        "--out",
        str(out),
        "--batch",
        "64",
        *source,
        *more,
    ]


def arguments(vae, out, *more):
    parser = argparse.ArgumentParser()
    prepare_latents.add_arguments(parser)
    return parser.parse_args(argv(vae, out, *more)[2:])


@pytest.fixture(scope="module")
def latents(vae, tmp_path_factory):
    """Returns the folder that two shards of the digits give."""
    out = tmp_path_factory.mktemp("latents") / "digits"
    args = arguments(vae, out, "--flip", "--shards", "2")
    assert prepare_latents.run(args) == 0
    return str(out)


def test_moments_of_both_variants_and_labels_in_the_order_of_the_source(vae, latents):
    _, module, variables = vae
    reader, source = array_record.Reader(latents), open_source("digits:test")
    assert len(reader) == len(source) == 360
    rows = [0, 179, 180, 359]  # both sides of the border between the shards
    x = np.stack([source[i]["image"] for i in rows]) * np.float32(2 / 16) - 1
    encode = jax.jit(lambda x: module.apply(variables, x, method="encode"))
    for name, images in (("moments", x), ("moments_flip", x[:, :, ::-1])):
        want = encode(images)
        assert np.abs(want).max() > 0.1
        got = np.stack([reader[i][name] for i in rows])
        assert got.shape == (4, 4, 4, 4) and got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-5)
    assert [int(reader[i]["label"]) for i in range(360)] == source.labels.tolist()
    assert set(reader[0]) == {"moments", "moments_flip", "label"}


def test_the_folder_names_the_weights_and_the_data(vae, latents):
    meta = array_record.Reader(latents).meta
    assert meta["vae"]["sha256"] == file_hash(vae[0])
    assert meta["vae"]["path"] == vae[0]
    assert (meta["images"], meta["image_size"], meta["flip"]) == (360, [8, 8], True)
    assert (meta["num_classes"], meta["source"]) == (10, "digits:test")


def test_training_reads_either_variant(latents):
    settings = StreamSettings(
        source=open_settings(latents), batch=360, flip=True, shuffle=False, threads=1
    )
    stream = open_stream(settings)
    batch = next(stream)
    stream.close()
    reader = array_record.Reader(latents)
    flipped = [np.array_equal(batch["moments"][i], reader[i]["moments_flip"]) for i in range(360)]
    straight = [np.array_equal(batch["moments"][i], reader[i]["moments"]) for i in range(360)]
    assert np.all(np.array(flipped) ^ np.array(straight))
    assert 120 < sum(flipped) < 240
    assert set(batch) == {"moments", "label"}


def open_settings(path):
    from genjax.data import SOURCES

    return SOURCES.build({"name": "array_record", "path": path})


def test_an_interrupted_run_is_refused_and_continued(vae, latents, tmp_path):
    # Another process, or the run before a crash, wrote shard 1 of 2 only.
    out = tmp_path / "half"
    args = arguments(vae, out, "--flip", "--shards", "2")
    plan, meta = prepare_latents.make_plan(args)
    prepare_latents.write_shards(plan, str(out), [1], 2, meta)
    with pytest.raises(UserError, match=r"index\.json"):
        array_record.Reader(str(out))
    with pytest.raises(UserError, match="shard 0 of 2 is not written"):
        array_record.finalise(str(out), 2, meta)
    kept = next(Path(out).glob("shard-00001*.array_record"))
    before = kept.stat().st_mtime_ns
    assert prepare_latents.run(args) == 0
    assert kept.stat().st_mtime_ns == before
    whole = array_record.Reader(latents)
    again = array_record.Reader(str(out))
    again.verify()
    assert len(again) == 360
    for i in (0, 200, 359):
        np.testing.assert_array_equal(again[i]["moments_flip"], whole[i]["moments_flip"])


def test_corrupt_pictures_are_replaced_and_named(vae, tmp_path, capsys):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/2.png"):
        file = tmp_path / "images" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 16, 3), np.uint8)).save(file)
        file.with_suffix(".txt").write_text(f"picture {name}")
    (tmp_path / "images/a/1.png").write_bytes(b"not a picture")
    out = tmp_path / "out"
    source = f"image_folder:{tmp_path / 'images'}"
    code = main(argv(vae, out, "--source", source, "--size", "8", "--store", "bfloat16"))
    assert code == 0
    assert "1 corrupt images replaced by others: a/1.png" in capsys.readouterr().err
    reader = array_record.Reader(str(out))
    assert len(reader) == 3
    assert reader[0]["moments"].dtype == jnp.bfloat16
    assert reader[2]["caption"] == "picture b/2.png"
    assert int(reader[2]["label"]) == 1


def test_a_config_gives_source_size_autoencoder_and_flip(vae, tmp_path):
    config = tmp_path / "latent.py"
    config.write_text(
        f"""
def get_config(arg=""):
    return {{
        "task": {{
            "name": "diffusion",
            "image": (8, 8, 1),
            "levels": 17,
            "codec": {{
                "name": "kl_vae",
                "path": {vae[0]!r},
                "model": {{"name": "kl_vae", **{SMALL!r}}},
            }},
        }},
        "data": {{"main": {{"source": {{"name": "digits", "split": "test"}}}}}},
    }}
"""
    )
    out = tmp_path / "out"
    command = ["prepare", "latents", "--config", str(config), "--out", str(out), "--batch", "64"]
    assert main([*command, "--config.data.main.flip=true"]) == 0
    reader = array_record.Reader(str(out))
    assert len(reader) == 360 and set(reader[0]) == {"moments", "moments_flip", "label"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch", "12"), "--batch"),  # 8 devices
        (("--batch", "0"), "--batch"),
        (("--size", "7"), "divisible by the autoencoder's 2"),
        (("--shards", "361"), "--shards"),
        (("--shards", "0"), "--shards"),
        (("--vae", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--source", "digit"), "digit"),
        (("--config.seed=1",), "--config"),
        (("--store", "float16"), "--store"),
    ],
)
def test_wrong_requests_are_one_line_and_write_nothing(vae, tmp_path, capsys, more, message):
    assert main(argv(vae, tmp_path / "out", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("genjax: error: ") and error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.glob("out/*.array_record"))


def test_a_finished_folder_and_one_without_images_are_refused(vae, latents, tmp_path, capsys):
    assert main(argv(vae, latents)) == 2
    assert "already holds" in capsys.readouterr().err
    assert main(argv(vae, tmp_path / "out", "--source", f"array_record:{latents}")) == 2
    assert "has no images" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_the_shards(vae, latents, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "genjax.cli.main"]
    command += argv(vae, out, "--flip", "--shards", "3")
    common = {
        "GENJAX_COORDINATOR": f"localhost:{port}",
        "GENJAX_NUM_PROCESSES": "2",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    running = [
        subprocess.Popen(command, env={**os.environ, **common, "GENJAX_PROCESS_ID": str(p)})
        for p in range(2)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    whole, shared = array_record.Reader(latents), array_record.Reader(str(out))
    shared.verify()
    assert len(shared) == len(whole)
    for i in range(0, 360, 7):
        np.testing.assert_allclose(shared[i]["moments"], whole[i]["moments"], atol=1e-5)
        assert shared[i]["label"] == whole[i]["label"]
