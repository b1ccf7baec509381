import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.data.array_record import Reader, Writer, decode, encode, finalise, shard_finished


def record(i):
    rng = np.random.default_rng(i)
    return {
        "moments": rng.normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16),
        "label": np.int32(i),
        "caption": f"grün {i}" if i % 2 else "",
    }


def write(path, counts=(3, 0, 4), meta=None):
    start = 0
    for s, n in enumerate(counts):
        with Writer(path, meta, shard=s, num_shards=len(counts)) as writer:
            for i in range(start, start + n):
                writer.write(record(i))
        start += n


def same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        assert np.array_equal(np.asarray(a[k]), np.asarray(b[k])), k
        if not isinstance(a[k], str):
            assert a[k].dtype == np.asarray(b[k]).dtype and a[k].shape == np.shape(b[k])


def test_coding_keeps_dtypes_shapes_and_strings():
    given = record(1) | {
        "flag": np.array([True, False]),
        "big": np.arange(3, dtype=">i4"),
        "empty": np.zeros((0, 2), np.uint8),
        "view": np.arange(12.0).reshape(3, 4)[:, ::2],
    }
    out = decode(encode(given))
    assert out["big"].tolist() == [0, 1, 2]
    same(
        {k: v for k, v in out.items() if k != "big"}, {k: v for k, v in given.items() if k != "big"}
    )
    with pytest.raises(TypeError, match="object"):
        encode({"x": np.array([{}], dtype=object)})
    for broken in (b"PK" + encode(given), encode(given)[:-1], encode(given) + b"x"):
        with pytest.raises(ValueError):
            decode(broken)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_shards_are_one_sequence_with_random_access(tmp_path, place):
    path = str(tmp_path / "set") if place == "local" else f"memory://{tmp_path.name}-shards/set"
    meta = {"num_classes": 7, "weights": "ab" * 32}
    write(path, meta=meta)
    index = finalise(path, 3, meta)
    assert index["records"] == 7
    reader = Reader(path)
    reader.verify()
    assert len(reader) == 7 and reader.meta == meta and reader.sha256 == index["sha256"]
    assert reader.fields["moments"] == {"dtype": "bfloat16", "shape": [2, 3, 4]}
    for i in (6, 0, 3, 2):
        same(reader[i], record(i))
    with ThreadPoolExecutor(4) as pool:
        labels = list(pool.map(lambda i: int(reader[i % 7]["label"]), range(100)))
    assert labels == [i % 7 for i in range(100)]
    again = pickle.loads(pickle.dumps(reader))  # what the loader's worker processes do
    same(again[5], record(5))
    with pytest.raises(IndexError):
        reader[7]
    if place == "local":
        names = sorted(p.name for p in Path(path).iterdir())
        assert names == ["index.json"] + [f"shard-0000{i}-of-00003.array_record" for i in range(3)]


def test_contents_hash_names_contents(tmp_path):
    hashes = []
    for name, meta in (("a", {}), ("b", {}), ("c", {"x": 1})):
        write(str(tmp_path / name), meta=meta)
        hashes.append(finalise(str(tmp_path / name), 3, meta)["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_lengths_may_vary_but_fields_may_not(tmp_path):
    path = str(tmp_path / "vary")
    with Writer(path) as writer:
        writer.write({"x": np.zeros((2, 3))})
        writer.write({"x": np.zeros((5, 3))})
        with pytest.raises(ValueError, match="differ"):
            writer.write({"y": np.zeros((5, 3))})
        with pytest.raises(ValueError, match="differ"):
            writer.write({"x": np.zeros((5, 3), np.float32)})
    finalise(path, 1)
    assert Reader(path).fields["x"]["shape"] == [None, 3]


def test_interrupted_writing_leaves_nothing_and_finished_shards_are_known(tmp_path):
    path = str(tmp_path / "cut")
    with pytest.raises(RuntimeError), Writer(path, {"a": 1}, 0, 2) as writer:
        writer.write(record(0))
        raise RuntimeError("killed")
    assert list(Path(path).iterdir()) == []
    with Writer(path, {"a": 1}, 0, 2) as writer:
        writer.write(record(0))
    assert shard_finished(path, 0, 2, {"a": 1})
    assert not shard_finished(path, 0, 2, {"a": 2})
    assert not shard_finished(path, 1, 2, {"a": 1})
    with pytest.raises(UserError, match=r"index\.json"):
        Reader(path)
    with pytest.raises(UserError, match="shard 1 of 2 is not written"):
        finalise(path, 2, {"a": 1})
    with Writer(path, {"a": 2}, 1, 2) as writer:
        writer.write(record(1))
    with pytest.raises(UserError, match="other settings"):
        finalise(path, 2, {"a": 1})


def test_damage_is_refused_in_one_line(tmp_path):
    path = str(tmp_path / "set")
    write(path, (4,))
    finalise(path, 1)
    shard = Path(path) / "shard-00000-of-00001.array_record"
    good = shard.read_bytes()
    with pytest.raises(UserError, match="already holds a finished"):
        Writer(path)
    with pytest.raises(UserError, match="no such folder"):
        Reader(str(tmp_path / "nowhere"))
    shard.write_bytes(good[:-8])
    with pytest.raises(UserError, match="bytes long where"):
        Reader(path)
    at = 500  # inside the records; most of a small file is padding
    shard.write_bytes(good[:at] + bytes(b ^ 255 for b in good[at : at + 8]) + good[at + 8 :])
    with pytest.raises(UserError, match="damaged"):
        Reader(path).verify()
    shard.unlink()
    with pytest.raises(UserError, match="missing"):
        Reader(path)
    index = Path(path) / "index.json"
    index.write_text(json.dumps({"format": "other"}))
    with pytest.raises(UserError, match="not written by genjax"):
        Reader(path)
    index.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Reader(path)
