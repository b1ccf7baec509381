"""Evaluates one set against another on all devices of all processes, and prints the report."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from genjax.evaluation import METRICS, Reference, Settings, Store, evaluate
from genjax.evaluation.extractors import Classifier
from genjax.evaluation.images import ImageSet
from genjax.parallel import initialize

initialize()
read: list[int] = []


def predict(params, images, levels):
    x = images.reshape(images.shape[0], -1).astype(jnp.float32) / (levels - 1)
    return {"features": jnp.tanh(x @ params["w"]), "logits": x @ params["v"]}


def pictures(name, n, top):
    data = np.random.default_rng(n).integers(0, top, (n, 4, 4, 1), np.uint8)

    def some(indices):
        read.extend(indices.tolist())
        return data[indices]

    return ImageSet(name, n, (4, 4, 1), some)


rng = np.random.default_rng(0)
params = {"w": rng.normal(0, 1, (16, 12)), "v": rng.normal(0, 3, (16, 5))}
network = Classifier(predict, params, (4, 4, 1), "test")
metrics = {n: METRICS.build({"name": n}) for n in ("fid", "kid", "is", "precision", "coverage")}
folder = Path(sys.argv[1])
report = evaluate(
    pictures("drawn", 203, 200),
    Reference("real", pictures("real", 331, 256)),
    metrics,
    {"": network},
    settings=Settings(batch=48, store=Store(folder, 0.0)),
)
values = {k: e["value"] for k, e in report["metrics"].items()}
found = {"values": values, "read": len(read), "processes": jax.process_count()}
print(json.dumps(found))
