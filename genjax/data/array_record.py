"""Folders of ArrayRecord shards whose records are dicts of arrays and strings; no pickle anywhere.

    folder/index.json                             counts, fields, hashes, the writer's metadata
    folder/shard-00000-of-00008.array_record      one record an element, random access

Several processes write shards of one folder; `finalise` then writes index.json, and a folder
without it is unfinished and refused. Shards are contiguous pieces of the data set, so that the
order of records does not depend on how many processes wrote them.

A field called NAME_flip is the horizontally mirrored variant of the field NAME: the pipeline takes
one of the two by its coin and hands it on as NAME (see `pipeline`).
"""

import hashlib
import json
import os
import shutil
import struct
import tempfile
import threading
from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from typing import Any

import ml_dtypes
import numpy as np

from genjax.core.errors import UserError
from genjax.data import files

Record = dict[str, Any]  # field -> numpy array (0-d for scalars) or str

INDEX = "index.json"
_FORMAT = "genjax-array-record-1"
_MAGIC = b"GJR1"


def encode(record: Mapping[str, Any]) -> bytes:
    """Returns the record as bytes: magic, header length, JSON header, raw little-endian arrays.

    Values: numpy arrays and scalars of numbers or booleans (bfloat16 too), or strings.
    """
    head, buffers = [], []
    for name, value in record.items():
        if isinstance(value, str):
            data = value.encode()
            head.append([name, "str", [len(data)]])
        else:
            array = np.asarray(value)
            if array.dtype.kind not in "biufcV" or array.dtype.hasobject or array.dtype.names:
                raise TypeError(f"field {name!r}: cannot store an array of dtype {array.dtype}")
            if array.dtype.byteorder == ">":
                array = array.astype(array.dtype.newbyteorder("<"))
            data = array.tobytes()
            head.append([name, array.dtype.name, list(array.shape)])
        buffers.append(data)
    header = json.dumps(head, separators=(",", ":")).encode()
    return b"".join([_MAGIC, struct.pack("<I", len(header)), header, *buffers])


def decode(data: bytes) -> Record:
    """Returns the record (arrays are read-only views); raises `ValueError` if it is malformed."""
    if data[:4] != _MAGIC:
        raise ValueError("not a record of genjax")
    (length,) = struct.unpack_from("<I", data, 4)
    at, record = 8 + length, {}
    for name, dtype, shape in json.loads(data[8:at]):
        if dtype == "str":
            record[name] = data[at : at + shape[0]].decode()
            at += shape[0]
            continue
        kind = _dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        record[name] = np.frombuffer(data, kind, count, at).reshape(shape)
        at += count * kind.itemsize
    if at != len(data):
        raise ValueError("record is cut off or too long")
    return record


def _dtype(name: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)


def _shard_name(shard: int, num_shards: int) -> str:
    return f"shard-{shard:05d}-of-{num_shards:05d}.array_record"


def _meta_hash(meta: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


class Writer:
    """Writes one shard of a folder (also on gs://, from a local temporary file).

    The shard appears under its name only when `close` succeeded; use it in a `with` statement so
    that an exception leaves nothing behind. `meta` (JSON values) must be the same for all shards.
    Raises `UserError` if the folder is already finished.
    """

    def __init__(
        self, path: str, meta: Mapping[str, Any] | None = None, shard: int = 0, num_shards: int = 1
    ):
        from array_record.python.array_record_module import ArrayRecordWriter

        if not 0 <= shard < num_shards:
            raise ValueError(f"shard {shard} of {num_shards}")
        path = str(path)
        files.make_folder(path)
        if files.exists(files.join(path, INDEX)):
            raise UserError(
                f"{path}: already holds a finished data set; choose another folder or delete it"
            )
        self._target = files.join(path, _shard_name(shard, num_shards))
        self._meta_hash = _meta_hash(meta or {})
        if files.is_remote(path):
            self._scratch = tempfile.mkdtemp(prefix="genjax-")
            self._part = os.path.join(self._scratch, "shard")
        else:
            self._scratch, self._part = None, f"{self._target}.{os.getpid()}.part"
        files.delete(f"{self._target}.json")
        # One record a group: every record is read alone, which random access needs.
        try:
            self._writer = ArrayRecordWriter(self._part, "group_size:1")
        except RuntimeError as error:
            raise UserError(f"{path}: cannot write here ({error}); mend permissions") from error
        self._digest = hashlib.sha256()
        self._fields: dict[str, dict] = {}
        self._count = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Appends one record; every record has the same fields with the same dtypes."""
        data = encode(record)
        self._note_fields(decode(data))
        self._digest.update(struct.pack("<Q", len(data)) + data)
        self._writer.write(data)
        self._count += 1

    def _note_fields(self, record: Record) -> None:
        fields = {name: _field(value) for name, value in record.items()}
        self._fields = _merge_fields(self._fields, fields) if self._count else fields

    def close(self) -> None:
        """Finishes the shard: renames (or uploads) it and writes its counts beside it."""
        if self._part is None:
            return
        self._writer.close()
        size = os.path.getsize(self._part)
        if self._scratch is None:
            os.replace(self._part, self._target)
        else:
            fs, name = files.store(self._target)
            fs.put_file(self._part, name)
            shutil.rmtree(self._scratch)
        self._part = None
        files.write_bytes(
            f"{self._target}.json",
            json.dumps(
                {
                    "records": self._count,
                    "bytes": size,
                    "sha256": self._digest.hexdigest(),
                    "fields": self._fields,
                    "meta_sha256": self._meta_hash,
                }
            ).encode(),
        )

    def abandon(self) -> None:
        """Drops the shard."""
        if self._part is None:
            return
        self._writer.close()
        if self._scratch is None:
            files.delete(self._part)
        else:
            shutil.rmtree(self._scratch)
        self._part = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close() if kind is None else self.abandon()


def _field(value) -> dict:
    if isinstance(value, str):
        return {"dtype": "str", "shape": []}
    return {"dtype": value.dtype.name, "shape": list(value.shape)}


def _merge_fields(a: dict, b: dict) -> dict:
    """Returns the common description; axes whose length varies become None."""
    if a == b:
        return a
    same_rank = a.keys() == b.keys() and all(
        a[k]["dtype"] == b[k]["dtype"] and len(a[k]["shape"]) == len(b[k]["shape"]) for k in a
    )
    if not same_rank:
        raise ValueError(f"records differ in fields, dtypes or ranks: {a} and {b}")
    return {
        k: {
            "dtype": a[k]["dtype"],
            "shape": [m if m == n else None for m, n in zip(a[k]["shape"], b[k]["shape"])],
        }
        for k in a
    }


def shard_finished(path: str, shard: int, num_shards: int, meta: Mapping[str, Any]) -> bool:
    """Says whether this shard was closed earlier with the same `meta` (an interrupted run)."""
    try:
        note = files.read_bytes(files.join(str(path), f"{_shard_name(shard, num_shards)}.json"))
    except FileNotFoundError:
        return False
    return json.loads(note)["meta_sha256"] == _meta_hash(meta)


def finalise(path: str, num_shards: int, meta: Mapping[str, Any] | None = None) -> dict:
    """Writes index.json once all shards are closed, and returns its contents.

    One process calls it, after the others have closed. Raises `UserError` naming missing shards,
    or shards written with other metadata.
    """
    path, meta, shards, fields = str(path), dict(meta or {}), [], None
    for i in range(num_shards):
        name = _shard_name(i, num_shards)
        try:
            note = json.loads(files.read_bytes(files.join(path, f"{name}.json")))
        except FileNotFoundError:
            raise UserError(
                f"{path}: shard {i} of {num_shards} is not written; run the preparation again, "
                "finished shards are kept"
            ) from None
        if note.pop("meta_sha256") != _meta_hash(meta):
            raise UserError(
                f"{path}: {name} was written with other settings; delete the folder and run again"
            )
        found = note.pop("fields")
        if note["records"]:
            fields = found if fields is None else _merge_fields(fields, found)
        shards.append({"file": name, **note})
    hashes = "".join(s["sha256"] for s in shards) + _meta_hash(meta)
    index = {
        "format": _FORMAT,
        "records": sum(s["records"] for s in shards),
        "sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        "fields": fields or {},
        "meta": meta,
        "shards": shards,
    }
    files.write_bytes(files.join(path, INDEX), json.dumps(index, indent=1).encode())
    for shard in shards:
        files.delete(files.join(path, f"{shard['file']}.json"))
    return index


class Reader:
    """Random access to a finished folder: `len(reader)`, `reader[i]` -> dict of arrays and strings.

    `meta`: the writer's metadata; `fields`: name -> {"dtype", "shape"} (None where lengths vary);
    `sha256`: hash of all contents. May be read from several threads, and sent to other processes.
    Opening checks that every shard is there with its size; `verify` reads and hashes everything.
    Raises `UserError` for unfinished and damaged folders.
    """

    def __init__(self, path: str):
        self.path = str(path)
        if not files.exists(self.path):
            raise UserError(f"{path}: no such folder; correct the path")
        try:
            index = json.loads(files.read_bytes(files.join(self.path, INDEX)))
        except FileNotFoundError:
            raise UserError(
                f"{path}: has no {INDEX}, so it is no finished ArrayRecord folder; "
                "write it with `genjax prepare` (again, if that was interrupted)"
            ) from None
        except ValueError as error:
            raise UserError(f"{path}/{INDEX}: damaged ({error}); prepare it again") from error
        if not isinstance(index, dict) or index.get("format") != _FORMAT:
            raise UserError(f"{path}/{INDEX}: not written by genjax; use `genjax prepare`")
        self.meta: dict[str, Any] = index["meta"]
        self.fields: dict[str, dict] = index["fields"]
        self.sha256: str = index["sha256"]
        self._shards: list[dict] = index["shards"]
        self._ends = list(accumulate(s["records"] for s in self._shards))
        sizes = files.sizes(self.path)
        for shard in self._shards:
            self._check_size(shard, sizes.get(shard["file"]))
        self._open()

    def _check_size(self, shard: dict, size: int | None) -> None:
        if size != shard["bytes"]:
            found = "missing" if size is None else f"{size} bytes long"
            raise UserError(
                f"{self.path}/{shard['file']}: {found} where {INDEX} says {shard['bytes']} bytes; "
                "copy it again or prepare the data set again"
            )

    def _open(self) -> None:
        self._readers: list[Any] = [None] * len(self._shards)
        self._lock = threading.Lock()

    def _reader(self, s: int):
        from array_record.python.array_record_module import ArrayRecordReader

        with self._lock:
            if self._readers[s] is None:
                shard = self._shards[s]
                local = files.local_copy(files.join(self.path, shard["file"]), shard["sha256"])
                options = "readahead_buffer_size:0,max_parallelism:0"  # random access
                try:
                    self._readers[s] = ArrayRecordReader(local, options)
                except RuntimeError as error:
                    raise self._damaged(s, error) from error
            return self._readers[s]

    def _damaged(self, s: int, error) -> UserError:
        return UserError(
            f"{self.path}/{self._shards[s]['file']}: damaged ({error}); "
            "copy it again or prepare the data set again"
        )

    def __len__(self) -> int:
        return self._ends[-1]

    def _bytes(self, i: int) -> tuple[int, bytes]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        s = bisect_right(self._ends, i)
        reader = self._reader(s)
        try:
            return s, reader.read([i - (self._ends[s - 1] if s else 0)])[0]
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._damaged(s, error) from error

    def __getitem__(self, i: int) -> Record:
        s, data = self._bytes(i)
        try:
            return decode(data)
        except (ValueError, struct.error) as error:
            raise self._damaged(s, error) from error

    def verify(self) -> None:
        """Reads everything and raises `UserError` naming the first shard whose hash differs."""
        i = 0
        for s, shard in enumerate(self._shards):
            digest = hashlib.sha256()
            for _ in range(shard["records"]):
                data = self._bytes(i)[1]
                digest.update(struct.pack("<Q", len(data)) + data)
                i += 1
            if digest.hexdigest() != shard["sha256"]:
                raise self._damaged(s, "its contents do not match its hash")

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in ("_readers", "_lock")}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._open()
