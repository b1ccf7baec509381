import jax.numpy as jnp
import numpy as np
import pytest

from genjax.checkpoint import Workdir
from genjax.core.types import Aux, TrainState
from genjax.parallel import Rules, peak_flops
from genjax.training import hooks
from genjax.training.settings import (
    CheckpointSettings,
    HeldoutSettings,
    LogSettings,
    SampleSettings,
    due,
)
from genjax.training.throughput import Chrono, Throughput
from tests.training import loop_toys as toys


def moment(workdir, mesh):
    params = {"n": {"w": jnp.float32(2.0)}, "other": {"w": jnp.float32(0.0)}}
    ema = {"slow": {"n": {"w": jnp.float32(3.0)}}}
    state = TrainState(jnp.int32(4), params, {}, {}, ema)
    return hooks.Moment(4, 64, state, {}, Workdir(str(workdir)), mesh, Rules())


class Linear:
    """Held-out "loss": sum over weighted rows of w x, the noise of its key, an empty bin."""

    def heldout(self, params, view, batch, key):
        x, weight = batch["main"]["x"][:, 0], batch["main"]["weight"]
        w = params["n"]["w"] + params["other"]["w"]
        noise = hooks.keys.normal(key[None], ())[0]
        one = jnp.ones(())
        loss = jnp.sum(w * x * weight), jnp.sum(weight)
        return Aux({"loss": loss, "noise": (noise, one), "loss/bin_0": (0 * one, 0 * one)})


def test_heldout_loss_is_exact_and_repeats(tmp_path):
    settings = HeldoutSettings(every_images=1, num=32, batch=16)

    def batches():
        stream = toys.Stream(0, 16)
        while True:
            yield {"main": next(stream)}

    hook = hooks.heldout(Linear(), settings, batches, seed=1)
    at = moment(tmp_path, toys.mesh(4))
    first, again = hook.run(at), hook.run(at)
    assert first == again
    rows = [toys.rows(i) for i in range(32)]
    mean = sum(r["x"][0] * r["weight"] for r in rows) / sum(r["weight"] for r in rows)
    assert first["heldout/raw/loss"] == pytest.approx(2 * mean, rel=1e-5)
    assert first["heldout/slow/loss"] == pytest.approx(3 * mean, rel=1e-5)
    # The standard error of a ratio of two batches' sums, by hand.
    sums = [sum(r["x"][0] * r["weight"] for r in rows[i : i + 16]) for i in (0, 16)]
    counts = [sum(r["weight"] for r in rows[i : i + 16]) for i in (0, 16)]
    off = [s - mean * c for s, c in zip(sums, counts)]
    error = np.sqrt(2 * (off[0] ** 2 + off[1] ** 2)) / sum(counts)
    assert first["heldout/raw/loss_error"] == pytest.approx(2 * error, rel=1e-4)
    assert "heldout/raw/loss/bin_0" not in first  # no sample: no value
    assert first["heldout/raw/noise"] == first["heldout/slow/noise"] != 0
    short = hooks.heldout(Linear(), settings, lambda: [{"main": next(toys.Stream(0, 16))}], 1)
    with pytest.raises(RuntimeError, match="ended after 1 of 2"):
        short.run(at)


def test_sample_grids_of_raw_and_averaged_weights(tmp_path):
    def draw(params, frozen):
        return np.full((6, 8, 8, 1), 10 * int(params["n"]["w"]), np.uint8)

    seen = []

    def picture(images, title):
        seen.append((title, images.shape))
        return bytes([images[0, 0, 0, 0]])

    hook = hooks.samples(SampleSettings(every_images=1, num=6), draw, picture)
    at = moment(tmp_path, toys.mesh(1))
    hook.run(at)
    files = sorted(p.name for p in (tmp_path / "samples").iterdir())
    assert files == ["000000000064_raw.png", "000000000064_slow.png"]
    for name, value in zip(files, (20, 30)):
        assert (tmp_path / "samples" / name).read_bytes() == bytes([value])
    assert [title.split(",")[0] for title, _ in seen] == ["raw", "slow"]
    assert all(shape == (6, 8, 8, 1) for _, shape in seen)


def test_cadences_count_images():
    assert [n for n in range(10) if due(30, n * 16, (n + 1) * 16)] == [1, 3, 5, 7, 9]
    assert not any(due(0, n, n + 1) for n in range(5))
    every = hooks.Hook("a", 10, lambda m: None)
    never = hooks.Hook("b", 0, lambda m: None)
    quiet = hooks.Hook("c", 10, lambda m: None, at_end=False)
    assert hooks.due_hooks([every, never, quiet], lambda n: False, True) == [every]
    assert hooks.due_hooks([every, never, quiet], lambda n: n == 10, False) == [every, quiet]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeldoutSettings(num=100, batch=64), "multiple of batch"),
        (lambda: CheckpointSettings(keep_last=0), "keep_last"),
        (lambda: CheckpointSettings(keep_best=1), "go together"),
        (lambda: CheckpointSettings(best_mode="most"), "min or max"),
        (lambda: CheckpointSettings(every_images=-1), "every_images must not be negative"),
        (lambda: LogSettings(trace=(5, 5)), "from < to"),
        (lambda: SampleSettings(num=0), "num"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_throughput(monkeypatch):
    now = [0.0]
    for clock in ("monotonic", "time"):
        monkeypatch.setattr(f"genjax.training.throughput.time.{clock}", lambda: now[0])
    chrono = Chrono(past=10.0)
    speed = Throughput(chrono, 100, 1100, 2e12, toys.mesh(1), began=-22.0)
    now[0] = 4.0
    with chrono.pause():
        now[0] = 6.0
    assert chrono.seconds() == 14.0
    assert speed.measure(500) == {
        "images_per_second": 100.0,
        "model_tflops": 200.0,
        "eta_seconds": 6.0,
        "goodput": 14.0 / 28.0,
    }
    assert speed.measure(500) == {}
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("cpu") is None
