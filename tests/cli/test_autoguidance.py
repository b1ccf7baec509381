"""Autoguidance from files: a worse network of another size, read with its own config."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import genjax
from genjax.cli.main import main
from genjax.core import keys
from genjax.core.errors import UserError
from genjax.solvers import noise
from tests.end_to_end.commands import ROOT, TINY, flags

STEPS, W = 3, 2.0


def trained(path, **changes):
    config = str(ROOT / "configs" / "quickstart.py")
    changed = {"train.images": 8 * 4, "checkpoint.every_images": 0, **changes}
    assert main(["train", "--config", config, "--workdir", path, *flags(TINY | changed)]) == 0
    return path


def rewrite(workdir, change):
    """Changes the task in the config of a workdir."""
    path = Path(workdir) / "config.json"
    content = json.loads(path.read_text())
    change(content["config"]["task"])
    path.write_text(json.dumps(content))


def guided_by(workdir, other, **fields):
    """Puts autoguidance by `other` into the config of a workdir."""
    rule = {"name": "autoguidance", "weight": W, "model": other, **fields}
    sampler = {"guidance": rule, "solver": {"name": "ddim"}, "steps": STEPS}
    rewrite(workdir, lambda task: task["sampler"].update(sampler))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("autoguidance")
    good = trained(str(root / "good"), **{"optimizer.model.learning_rate": 2e-2})
    bad = trained(str(root / "bad"), **{"task.model.width": 16})
    return good, bad


def test_samples_go_away_from_the_worse_network(runs, tmp_path):
    good, bad = runs
    models = [genjax.load(path) for path in runs]  # unguided, before the config is changed
    guided_by(good, bad)
    model = genjax.load(good)
    found = model.sample(4, labels=[1, 2], seed=5)
    # by hand, from both models' own denoisers
    rows, generator = model.task.rows(), model.generator(4)
    own = keys.per_sample(keys.key(5, "sample"), np.arange(4))
    x = noise(own, model.task.shape)
    for i in range(STEPS):
        t = float(rows["t"][i])
        d = [m.denoise(x, t, [1, 2]) for m in models]
        x = rows["a"][i] * x + rows["c"][i] * (d[1] + W * (d[0] - d[1]))
    want = np.asarray(model.task.to_uint8(x))
    assert np.abs(found.astype(int) - want.astype(int)).max() <= 1
    assert generator.compilations == 1
    unguided = model.sample(4, labels=[1, 2], seed=5, guidance=1.0)
    assert np.abs(found.astype(int) - unguided.astype(int)).max() > 1
    out = str(tmp_path / "s.npz")
    assert main(["sample", "--workdir", good, "--num", "4", "--labels", "1,2", "--seed", "5",
                 "--out", out]) == 0  # fmt: skip
    with np.load(out) as file:
        assert np.abs(file["arr_0"].astype(int) - found.astype(int)).max() <= 1
    guided_by(good, bad, ema="raw")
    raw = genjax.load(good).sample(4, labels=[1, 2], seed=5)
    assert np.abs(found.astype(int) - raw.astype(int)).max() > 0


def test_the_worse_network_must_be_of_the_same_kind(runs, tmp_path):
    good = runs[0]
    guided_by(good, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: no config"):
        genjax.load(good)
    other = str(tmp_path / "table")
    shutil.copytree(runs[1], other)
    table = {"process": {"name": "table"}, "precond": {"name": "eps"}}
    rewrite(other, lambda task: task.update(table))
    guided_by(good, other)
    with pytest.raises(UserError, match="has process ="):
        genjax.load(good)
