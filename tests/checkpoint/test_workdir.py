import importlib.util

import pytest

from genjax.checkpoint import Workdir
from genjax.core.errors import UserError


@pytest.fixture(params=["disk", "memory"])
def workdir(request, tmp_path):
    local = request.param == "disk"
    out = Workdir(str(tmp_path / "run") if local else f"memory://{tmp_path.name}/run")
    out.create()
    assert out.local is local and out.appends
    return out


def test_files(workdir):
    assert workdir.listing() == [] and workdir.listing("absent") == []
    workdir.write("a/b.json", b"[1, 2]")
    assert workdir.read_json("a/b.json") == [1, 2]
    workdir.write("a/b.json", b"{}")
    assert workdir.read_json("a/b.json") == {}
    workdir.append("a/log", b"x")
    workdir.append("a/log", b"y")
    assert workdir.read("a/log") == b"xy"
    assert workdir.listing("a") == ["b.json", "log"] and workdir.exists("a", "log")
    assert not workdir.exists("a", "log", "below a file") and not workdir.exists("a", "absent")
    assert workdir.files() == ["a/b.json", "a/log"] and workdir.files("a/log") == []
    workdir.move("a", "c")
    assert workdir.files() == ["c/b.json", "c/log"] and workdir.listing() == ["c"]
    workdir.move("c", "a")
    workdir.remove("absent")
    workdir.remove("a")
    assert workdir.listing() == []


def test_addresses(tmp_path):
    assert Workdir(f"{tmp_path}/").url("x") == f"{tmp_path}/x"
    assert Workdir("memory://r").url("x", "y") == "memory:///r/x/y"


def test_a_workdir_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*; give another --workdir"):
        Workdir(str(tmp_path / "file" / "run")).create()
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(UserError, match=r"for gs:// install genjax-image\[gcs\]"):
            Workdir("gs://bucket/run").create()
    with pytest.raises(UserError, match="nonsense"):
        Workdir("nonsense://x").create()
