"""Two toy tasks and a run around them: two networks with one player, and a GAN with two."""

import dataclasses
from collections.abc import Iterator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genjax.checkpoint import Workdir
from genjax.core.types import ArraySpec, Aux, Player
from genjax.parallel import MeshSpec, host_shard
from genjax.training.ema import Constant, HalfLife
from genjax.training.loop import Loop
from genjax.training.optimizers import OPTIMIZERS
from genjax.training.settings import CheckpointSettings, LogSettings, TrainSettings

BATCH = 16


SPECS = {**dict.fromkeys(("x", "z", "target"), ArraySpec((2,))), "weight": ArraySpec(())}


class MLP(nn.Module):
    out: int = 2

    @nn.compact
    def __call__(self, x):
        named = lambda *axes: nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)  # noqa: E731
        x = nn.Dense(8, kernel_init=named(None, "mlp"), name="up")(x)
        return nn.Dense(self.out, kernel_init=named("mlp", None), name="down")(nn.gelu(x))


NET = MLP()


def apply(params, x):
    return NET.apply({"params": params}, x)


@dataclasses.dataclass(frozen=True)
class Pair:
    """One player trains "a" and "b": b(a(x + noise)) is to be `target`; a count in `mutable`.

    `weighted`: rows count as their `weight` says. `noise`: standard deviation, drawn from the key.
    """

    noise: float = 0.1
    weighted: bool = False
    poison: str = ""

    @property
    def streams(self):
        return {"main": SPECS}

    @property
    def players(self):
        return (Player("model", ("a", "b"), self.loss),)

    def init(self, key):
        a, b = jax.random.split(key)
        x = jnp.zeros((1, 2))
        params = {"a": NET.init(a, x)["params"], "b": NET.init(b, x)["params"]}
        return {"params": params, "mutable": {"a": {"seen": jnp.zeros(())}}}

    def load_frozen(self):
        return {"teacher": {"scale": np.float32(0.5)}}

    def loss(self, trained, view, batch, key, progress):
        main = batch["main"]
        x = main["x"] + self.noise * jax.random.normal(key, main["x"].shape)
        y = apply(trained["b"], apply(trained["a"], x)) * view.frozen["teacher"]["scale"]
        errors = jnp.square(y - main["target"]).mean(axis=1)
        weight = main["weight"] if self.weighted else jnp.ones(len(errors))
        total, count = jnp.sum(errors * weight), jnp.sum(weight)
        if self.poison:  # an infinite gradient of one tensor only, once training is half over
            late = progress.images * 2 >= progress.total_images
            spike = jnp.sum(trained["b"]["up"]["kernel"])
            total += jnp.where(late, jnp.sqrt(jnp.where(late, spike - spike, 1.0)), 0.0)
        mutable = {"a": {"seen": view.mutable["a"]["seen"] + len(x)}}
        return total / count, Aux({"loss": (total, count)}, mutable)

    def heldout(self, params, view, batch, key):
        return Aux(self.loss(params, view, batch, key, None)[1].metrics)

    def forward_flops(self):
        return 128.0


@dataclasses.dataclass(frozen=True)
class Gan:
    """D every step, G every fifth, on a stream of its own."""

    @property
    def streams(self):
        return {"main": SPECS, "prior": SPECS}

    @property
    def players(self):
        return (
            Player("D", ("d",), self.d_loss),
            Player("G", ("g",), self.g_loss, streams=("prior",), every=5),
        )

    def init(self, key):
        a, b = jax.random.split(key)
        x = jnp.zeros((1, 2))
        return {
            "params": {"d": NET.init(a, x)["params"], "g": NET.init(b, x)["params"]},
            "mutable": {},
        }

    def load_frozen(self):
        return {}

    def d_loss(self, trained, view, batch, key, progress):
        x = batch["main"]["x"]
        fake = apply(view.params["g"], jax.random.normal(key, x.shape))
        score = lambda v: apply(trained["d"], v).mean(axis=1)  # noqa: E731
        loss = (nn.softplus(-score(x)) + nn.softplus(score(fake))).mean()
        return loss, Aux({"loss": (loss * len(x), jnp.float32(len(x)))})

    def g_loss(self, trained, view, batch, key, progress):
        fake = apply(trained["g"], batch["prior"]["z"])
        loss = nn.softplus(-apply(view.params["d"], fake).mean(axis=1)).mean()
        return loss, Aux()

    def heldout(self, params, view, batch, key):
        raise NotImplementedError

    def forward_flops(self):
        return 128.0


def rows(index: int) -> dict[str, np.ndarray]:
    """Returns row `index` of every field that a toy reads."""
    rng = np.random.default_rng(index)
    x = rng.normal(size=2).astype(np.float32)
    target = np.array([np.sin(x[0]), x[0] * x[1]], np.float32)
    return {"x": x, "z": x + 1, "target": target, "weight": np.float32(index % 3)}


class Stream:
    """An endless stream from a position; counts what it gave, and remembers being closed."""

    def __init__(self, start: int, batch: int, index: int = 0, count: int = 1, poison=None):
        self.position, self.batch, self.poison = start, batch, poison
        self.index, self.count, self.closed = index, count, False

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        each = self.batch // self.count
        first = self.position + self.index * each
        many = [rows(i) for i in range(first, first + each)]
        self.position += self.batch
        out = {k: np.stack([r[k] for r in many]) for k in many[0]}
        if self.poison is not None and self.position > self.poison:
            out["x"][0, 0] = np.nan
        return out

    def close(self):
        self.closed = True


def mesh(n: int = 1, **axes):
    return MeshSpec(**axes).build(jax.devices()[:n])


def run_of(path, task=None, *, steps=10, devices=1, poison=None, save_steps=5, **changes) -> Loop:
    """Returns a run of `steps` steps of 16 images that saves every `save_steps`."""
    task = task or Pair()
    grid = changes.pop("mesh", None) or mesh(devices)

    def open_streams(read):
        index, count = host_shard(grid)
        return {s: Stream(n, BATCH, index, count, poison) for s, n in read.items()}

    names = [p.name for p in task.players]
    defaults = {
        "seed": 3,
        "batch": dict.fromkeys(task.streams, BATCH),
        "open_streams": open_streams,
        "optimizers": {n: OPTIMIZERS.build({"name": "adam", "learning_rate": 1e-2}) for n in names},
        "emas": {"fixed": Constant(0.9), "half": HalfLife(100.0)},
        "train": TrainSettings(images=steps * BATCH),
        "checkpoint": CheckpointSettings(every_images=save_steps * BATCH),
        "log": LogSettings(every_images=2 * BATCH, tensorboard=False),
        "config": {"toy": 1},
    }
    return Loop(task=task, workdir=Workdir(str(path)), mesh=grid, **(defaults | changes))


def same(a, b) -> bool:
    """Says whether two trees are equal bit for bit."""
    la, lb = jax.tree.leaves(a), jax.tree.leaves(b)
    return len(la) == len(lb) and all(
        np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in zip(la, lb)
    )
