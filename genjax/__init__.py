"""genjax: image generators in JAX, trained, sampled and evaluated by one loop and one command.

import genjax
model = genjax.load("runs/quickstart")
images = model.sample(num=16, labels=[3] * 16, steps=50, guidance=2.0, seed=0)
"""

import importlib

__version__ = "0.1.0"
__all__ = ["Model", "load", "weights"]


def __getattr__(name: str):
    """Loads the public names when first used: `import genjax` alone stays cheap."""
    if name == "weights":
        return importlib.import_module("genjax.weights")
    if name in ("load", "Model"):
        return getattr(importlib.import_module("genjax.cli.model"), name)
    raise AttributeError(f"module 'genjax' has no attribute {name!r}")
