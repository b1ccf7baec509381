"""Checkpoints of a small sharded state, on a disk and in an object store."""

import logging
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genjax.checkpoint import Checkpoints, Retention, SaveFailed, Workdir
from genjax.core.errors import UserError
from genjax.core.types import TrainState


def state_of(step: int, devices: int = 8, dtype=jnp.bfloat16) -> TrainState:
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    split, whole = (NamedSharding(mesh, PartitionSpec(*s)) for s in (("data",), ()))
    kernel = np.arange(64, dtype=np.float32).reshape(8, 8) + step
    kernel[0, 0] = -0.0
    params = {"net": {"w": jax.device_put(kernel, split)}, "empty": {"x": jnp.zeros((0, 3))}}
    params["empty"]["x"] = jax.device_put(params["empty"]["x"], whole)
    moments = (jax.device_put(jnp.full((8,), step, dtype), split),)
    ema = {"slow": {"net": {"w": jax.device_put(2 * kernel, split)}}}
    count = jax.device_put(jnp.int32(step), whole)
    return TrainState(count, params, {}, {"net": moments}, ema)


def abstract(state: TrainState) -> TrainState:
    spec = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)  # noqa: E731
    return jax.tree.map(spec, state)


def bits(tree):
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def saved(path, steps=(1, 2, 3), retention=None) -> Checkpoints:
    workdir = Workdir(str(path))
    workdir.create()
    store = Checkpoints(workdir, retention)
    for step in steps:
        store.save(state_of(step), step=step, images=10 * step, meta={"config": {"a": 1}})
    store.wait()
    return store


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    return str(tmp_path / "run") if request.param == "disk" else f"memory://{tmp_path.name}/run"


def test_restores_bit_for_bit_on_other_meshes(place):
    saved(place)
    for devices in (8, 2, 1):
        target = abstract(state_of(0, devices))
        state, meta = Checkpoints(place).restore(target)
        assert bits(state) == bits(state_of(3))
        assert state.params["net"]["w"].sharding == target.params["net"]["w"].sharding
        assert (meta["step"], meta["images"], meta["config"]) == (3, 30, {"a": 1})


def test_reads_weights_without_the_optimiser(place):
    store = saved(place)
    params, meta = store.restore_params("slow")
    np.testing.assert_array_equal(params["net"]["w"], state_of(3).ema["slow"]["net"]["w"])
    assert meta["step"] == 3
    only = {"net": abstract(state_of(0, 2)).params["net"]}
    params, _ = store.restore_params("raw", step=2, abstract=only)
    assert bits(params) == bits(state_of(2).params["net"])
    with pytest.raises(UserError, match="no EMA 'fast'; it has raw, slow"):
        store.restore_params("fast")
    with pytest.raises(UserError, match="no checkpoint of step 9"):
        store.restore_params(step=9)


def test_snapshots_stay_and_are_read_by_name(place):
    store = saved(place, retention=Retention(last=1))
    for step in (1, 2):
        store.snapshot(state_of(step).ema, step=step, images=10 * step, meta={})
    store.save(state_of(4), step=4, images=40)
    store.wait()
    assert store.steps() == [4]
    assert store.snapshots() == {1: 10, 2: 20}
    assert bits(store.read_snapshot(1, "slow")) == bits(state_of(1).ema["slow"])
    with pytest.raises(UserError, match="no EMA 'x'"):
        store.read_snapshot(1, "x")


def cut_data(folder):
    for file in (folder / "state").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            file.write_bytes(file.read_bytes()[:16])


def cut_record(folder):
    (folder / "meta" / "metadata").write_text('{"step": 3, "im')


def lose_arrays(folder):
    for file in (folder / "state").rglob("*"):
        if file.is_file():
            file.unlink()


@pytest.mark.parametrize("damage", [cut_data, cut_record, lose_arrays])
def test_a_damaged_newest_checkpoint_falls_back(tmp_path, caplog, damage):
    saved(tmp_path)
    damage(tmp_path / "checkpoints" / "3")
    params, meta = Checkpoints(str(tmp_path)).restore_params("raw")
    assert (meta["step"], bits(params)) == (2, bits(state_of(2).params))
    assert (tmp_path / "checkpoints" / "3").exists(), "reading alone changes nothing"
    store = Checkpoints(str(tmp_path))
    with caplog.at_level(logging.WARNING, "genjax"):
        state, meta = store.restore(abstract(state_of(0)))
    assert (meta["step"], bits(state)) == (2, bits(state_of(2)))
    assert "checkpoint of step 3 is damaged" in caplog.text
    assert (tmp_path / "checkpoints" / "3.damaged").exists()
    store.save(state_of(3), step=3, images=30)  # the same step again
    store.wait()
    assert bits(Checkpoints(str(tmp_path)).restore(abstract(state_of(0)))[0]) == bits(state_of(3))


def test_changed_bits_are_noticed(tmp_path, caplog):
    noise = np.random.default_rng(0).integers(2**32, size=(64, 64), dtype=np.uint32)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    make = lambda step: TrainState(  # noqa: E731
        jax.device_put(jnp.int32(step), where), {"n": jax.device_put(noise, where)}, {}, {}, {}
    )
    store = Checkpoints(str(tmp_path))
    for step in (1, 2):
        store.save(make(step), step=step, images=step)
    store.wait()
    piece, flipped = noise[3, :4].tobytes(), 0
    for file in (tmp_path / "checkpoints" / "2").rglob("*"):
        content = bytearray(file.read_bytes()) if file.is_file() else b""
        at = content.find(piece)  # random bits do not compress: they are stored as they are
        if at >= 0:
            content[at] ^= 1
            file.write_bytes(content)
            flipped += 1
    assert flipped == 1
    state, meta = store.restore(abstract(make(0)))
    assert meta["step"] == 1 and bits(state.params) == [noise.tobytes()]
    assert 'the checksum of "params/n" is wrong' in caplog.text


def test_none_readable_is_an_error(tmp_path):
    store = saved(tmp_path, (1, 2))
    cut_record(tmp_path / "checkpoints" / "1")
    cut_data(tmp_path / "checkpoints" / "2")
    with pytest.raises(UserError, match=r"none of its checkpoints \[1, 2\] can be read"):
        store.restore(abstract(state_of(0)))


def test_what_differs_from_the_run_is_named(tmp_path):
    store = saved(tmp_path, steps=(1,))
    with pytest.raises(UserError, match='"opt/net/0" is bfloat16, the run wants float32'):
        store.restore(abstract(state_of(0, dtype=jnp.float32)))
    wanted = abstract(state_of(0))
    wide = jax.ShapeDtypeStruct((8, 9), jnp.float32, sharding=wanted.params["net"]["w"].sharding)
    with pytest.raises(
        UserError, match=r'"params/net/w" has shape \(8, 8\), the run wants \(8, 9\)'
    ):
        store.restore_params(abstract={"net": {"w": wide}})
    other = TrainState(wanted.step, wanted.params, {}, wanted.opt, {})
    with pytest.raises(UserError, match='also has "ema/slow/net/w"'):
        store.restore(other)
    more = TrainState(wanted.step, wanted.params, {}, {"x": wanted.opt["net"]}, wanted.ema)
    with pytest.raises(UserError, match='has no "opt/x/0"'):
        store.restore(more)
    assert store.steps() == [1], "a config that does not fit is no damage"


def test_an_empty_workdir_has_nothing_to_restore_and_nothing_to_read(place):
    Workdir(place).create()
    store = Checkpoints(place)
    assert store.restore(abstract(state_of(0))) is None and store.latest() is None
    with pytest.raises(UserError, match="no checkpoint there; give a workdir of `genjax train`"):
        store.restore_params()


def test_the_step_must_be_the_states(tmp_path):
    with pytest.raises(RuntimeError, match="counts step 5, the state 4"):
        saved(tmp_path, ()).save(state_of(4), step=5, images=0)


def test_retention():
    images = {s: {"images": 100 * s, "metrics": {"m": abs(s - 4)}} for s in range(1, 11)}
    images[6]["metrics"] = {}
    images[7]["metrics"] = {"m": float("nan")}
    assert Retention(last=2).stay(images) == {9, 10}
    assert Retention(last=1, every_images=300).stay(images) == {3, 6, 9, 10}
    assert Retention(last=1, best=2, metric="m").stay(images) == {3, 4, 10}
    assert Retention(last=1, best=1, metric="m", mode="max").stay(images) == {10}
    # the first of each period stays the first when others go
    kept = {s: images[s] for s in (3, 6, 9, 10)}
    assert Retention(last=1, every_images=300).stay(kept) == {3, 6, 9, 10}


def test_rotation_counts_no_leftovers(tmp_path):
    store = saved(tmp_path, (1, 2, 3, 4), Retention(last=2))
    assert store.steps() == [3, 4]
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
    assert Checkpoints(str(tmp_path)).restore(abstract(state_of(0)))[1]["step"] == 4
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


def test_an_upload_that_broke_off_is_no_checkpoint(tmp_path):
    place = f"memory://{tmp_path.name}/cut"
    store = saved(place, (1, 2))
    store.workdir.remove("checkpoints/2/commit_success.txt")
    assert store.steps() == [1]
    assert Checkpoints(place).restore(abstract(state_of(0)))[1]["step"] == 1
    assert store.workdir.listing("checkpoints") == ["1"]


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path):
    script = f"""
        import os, resource, signal
        import jax, jax.numpy as jnp
        from jax.sharding import SingleDeviceSharding
        from genjax.checkpoint import Checkpoints, SaveFailed, Workdir
        from genjax.core.types import TrainState
        def state(step, n):
            where = SingleDeviceSharding(jax.devices()[0])
            noise = jax.random.normal(jax.random.key(step), (n,))
            put = lambda x: jax.device_put(x, where)
            return TrainState(put(jnp.int32(step)), {{"w": put(noise)}}, {{}}, {{}}, {{}})
        Workdir({str(tmp_path)!r}).create()
        store = Checkpoints({str(tmp_path)!r})
        store.save(state(1, 1000), step=1, images=1)
        store.wait()
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            store.save(state(2, 100_000), step=2, images=2)
            store.wait()
        except SaveFailed as error:
            assert "checkpoints/2 could not be written" in str(error), error
            assert "the last complete one is of step 1" in str(error), error
            assert store.restore_params()[1]["step"] == 1
            print("kept", sorted(os.listdir({str(tmp_path / "checkpoints")!r})))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.stdout.strip() == "kept ['1']", done.stdout + done.stderr[-2000:]
    assert issubclass(SaveFailed, RuntimeError) and not issubclass(SaveFailed, UserError)
