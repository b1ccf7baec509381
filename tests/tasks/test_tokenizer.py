"""The tokenizer task: its players, what each of them moves, stages, meshes, and an over-fit."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.core import keys
from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.core.types import Progress, View
from genjax.data import open_source
from genjax.parallel import MeshSpec, Rules, to_global
from genjax.tasks import TASKS
from genjax.training.optimizers import OPTIMIZERS
from genjax.training.schedules import SCHEDULES
from genjax.training.state import acting, planned, transforms
from genjax.training.step import Recipe, make_step

pytestmark = pytest.mark.slow  # each compiles a step; the shrunken configs run one by default

SIZE = {"depth": 1, "heads": 2, "width": 16, "hidden": 32}
MODEL = {
    "name": "vit_vqgan",
    "encoder_size": SIZE,
    "decoder_size": SIZE,
    "quantizer": {"name": "vq", "size": 32, "dim": 4},
    "patch": 2,
    "grid": (4, 4),
    "channels": 1,
}
JUDGE = {"name": "stylegan_discriminator", "max_channels": 4}
BATCH = 8


def build(model=None, **fields):
    base = {"name": "tokenizer", "image": (8, 8, 1), "levels": 17, "objective": {"perceptual": 0.0}}
    return TASKS.build(base | {"model": MODEL | (model or {})} | fields)


def images(n=BATCH):
    source = open_source("digits")
    return {"main": {"image": np.stack([source[i]["image"] for i in range(n)])}}


class Trainer:
    """A task's compiled steps on a mesh."""

    def __init__(self, task, spec=None, accumulate=1, devices=1):
        self.task = task
        self.mesh = (spec or MeshSpec()).build(jax.devices()[:devices])
        self.rules = Rules(replicate_below=0)
        names = {p.optimizer or p.name for p in task.players}
        adam = OPTIMIZERS.build({"name": "adamw", "learning_rate": 1e-3, "weight_decay": 0.0})

        def make(params):
            return transforms(task.players, dict.fromkeys(names, adam), params, BATCH, 1000)

        abstract, self.init, tx = planned(task, make, (), (), self.mesh, self.rules)
        shardings = jax.tree.map(lambda x: x.sharding, abstract)
        self.recipe = Recipe(
            task.players, tx, {}, BATCH, accumulate, self.mesh, self.rules, shardings
        )
        self.batch = to_global(images(), self.mesh, self.rules)
        self.state = self.init(np.uint32(0))
        self._steps = {}

    def step(self, number=0):
        now = acting(self.task.players, number)
        names = tuple(p.name for p in now)
        fn = self._steps.setdefault(names, make_step(self.recipe, now))
        self.state, report = fn(self.state, {}, self.batch, np.uint32(0), np.uint32(1000))
        return {k: float(v[0] / v[1]) for k, v in report.metrics.items()}


def copy(tree):
    return jax.tree.map(np.array, tree)


def moved(before, after):
    return {
        name
        for name in before
        if any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(before[name]), jax.tree.leaves(after[name]))
        )
    }


def test_two_players_and_lazy_r1():
    task = build(discriminator=JUDGE, adversary={"r1_every": 4, "lecam": 0.1})
    assert [p.name for p in task.players] == ["tokenizer", "discriminator", "r1"]
    assert [p.name for p in acting(task.players, 3)] == ["tokenizer", "discriminator"]
    assert [p.name for p in acting(task.players, 4)] == ["tokenizer", "discriminator", "r1"]
    assert task.players[2].optimizer == "discriminator"
    trainer = Trainer(task)
    before = copy(trainer.state.params)
    found = trainer.step()
    assert moved(before, copy(trainer.state.params)) == {"encoder", "decoder", "discriminator"}
    for name in ("tokenizer/adversarial", "discriminator/lecam", "r1/gradient", "tokenizer/dead"):
        assert name in found
    assert found["discriminator/loss"] == pytest.approx(np.log(2), abs=0.3)
    assert "lecam" in trainer.state.mutable["discriminator"]


@pytest.mark.slow
def test_the_players_alone_move_their_networks():
    task = build(discriminator=JUDGE, adversary={"r1": 0.0})
    for name, networks in (
        ("tokenizer", {"encoder", "decoder"}),
        ("discriminator", {"discriminator"}),
    ):
        trainer = Trainer(task)
        before = copy(trainer.state.params)
        (player,) = [p for p in task.players if p.name == name]
        fn = make_step(trainer.recipe, (player,))
        state, _ = fn(trainer.state, {}, trainer.batch, np.uint32(0), np.uint32(1000))
        assert moved(before, copy(state.params)) == networks


def test_the_decoder_stage_leaves_encoder_and_codes_alone():
    task = build(stage="decoder", model={"decoder_size": {**SIZE, "depth": 2}})
    (player,) = task.players
    assert player.trains == ("decoder",) and task.resting == ("encoder",)
    trainer = Trainer(task)
    before = copy(trainer.state.params)
    found = trainer.step()
    assert moved(before, copy(trainer.state.params)) == {"decoder"}
    assert "dead" not in found and trainer.state.mutable == {}


def test_dead_codes_are_revived_inside_the_step():
    task = build(objective={"perceptual": 0.0, "revive": True, "dead_after": 2})
    trainer = Trainer(task)
    table = lambda: np.array(trainer.state.params["encoder"]["quantizer"]["table"])  # noqa: E731
    idle = lambda: np.array(trainer.state.mutable["encoder"]["codes"]["idle"])  # noqa: E731
    trainer.step()
    unused = idle() == 1
    assert 0 < unused.sum() < 32
    first = table()
    found = trainer.step(1)
    dead = unused & (idle() == 0) & np.any(np.abs(table() - first) > 0.05, axis=1)
    assert found["dead"] == dead.sum() > 0
    assert idle().max() <= 1
    # its length stays, its direction is that of a vector of the batch
    np.testing.assert_allclose(
        np.linalg.norm(table()[dead], axis=1), np.linalg.norm(first[dead], axis=1), rtol=1e-5
    )
    points = np.array(trainer.state.mutable["encoder"]["codes"]["points"])
    units = table()[dead] / np.linalg.norm(table()[dead], axis=1, keepdims=True)
    np.testing.assert_allclose(units, points[dead], atol=1e-5)


@pytest.mark.slow
def test_the_step_is_the_same_on_a_mesh():
    one = Trainer(build(discriminator=JUDGE, adversary={"r1": 0.0}))
    many = Trainer(one.task, MeshSpec(data=2, fsdp=2, tensor=2), devices=8)
    want, found = one.step(), many.step()
    for name, value in want.items():
        assert found[name] == pytest.approx(value, rel=2e-4, abs=1e-6), name
    # Adam's first moments are the gradients; the first update is only their signs
    for player in ("tokenizer", "discriminator"):
        (a,), (b,) = (
            [s.mu for s in jax.tree.leaves(t.state.opt[player], is_leaf=_adam) if _adam(s)]
            for t in (one, many)
        )
        for (path, x), y in zip(flatten(a).items(), jax.tree.leaves(b), strict=True):
            scale = np.abs(x).max() + 1e-8
            np.testing.assert_allclose(np.array(y), x, rtol=0, atol=1e-3 * scale, err_msg=path)


def _adam(x):
    return isinstance(x, optax.ScaleByAdamState)


def test_codes_pixels_and_held_out_metrics():
    task = build()
    params = Trainer(task).state.params
    batch = jax.tree.map(jnp.asarray, images())
    image = batch["main"]["image"]
    codes = task.encode({"encoder": params["encoder"]}, image)  # the decoder is not needed
    x = task.decode(params, codes)
    again = task.reconstruct(params, task.from_pixels(image)).image
    np.testing.assert_allclose(x, jnp.clip(again, 0, 1), atol=1e-6)
    exact = task.to_uint8(task.from_pixels(image))
    np.testing.assert_array_equal(exact, np.floor(np.asarray(image) * (255 / 16) + 0.5))
    view = View({}, {}, {}, {})
    metrics = task.heldout(params, view, batch, keys.key(0, "heldout")).metrics
    assert float(metrics["usage"][0]) == len(np.unique(codes)) / 32
    mse = np.mean((np.asarray(again) - np.asarray(image) / 16) ** 2)
    assert float(metrics["l2"][0] / metrics["l2"][1]) == pytest.approx(mse, rel=1e-5)


def test_total_is_the_weighted_sum():
    weights = {"vq": 2.0, "l2": 3.0, "logit_laplace": 0.5, "adversarial": 0.25, "perceptual": 0.0}
    task = build(model={"head": "logit_laplace"}, discriminator=JUDGE, objective=weights)
    params = Trainer(task).state.params
    batch = jax.tree.map(jnp.asarray, images())
    view = View({}, {}, {}, {})
    objective = jax.jit(lambda p: task.players[0].objective(p, view, batch, key, still)[1])
    key, still = keys.key(0, "x"), Progress(0, 0, 1)
    aux = objective(params)
    mean = {k: float(s / c) for k, (s, c) in aux.metrics.items()}
    want = sum(w * mean[k] for k, w in weights.items() if w)
    assert mean["loss"] == pytest.approx(want, rel=1e-5)
    assert mean["vq"] == pytest.approx(mean["codebook"] + mean["commitment"], rel=1e-5)


def test_without_weights_a_notice_says_that_the_perceptual_loss_is_off(caplog):
    with caplog.at_level(logging.WARNING, logger="genjax"):
        assert build(objective={}).load_frozen() == {}
        assert "perceptual loss (weight 0.1) is off" in caplog.text
        caplog.clear()
        build().load_frozen()
        assert not caplog.text
    with pytest.raises(UserError, match=r"task\.lpips: .*nowhere"):
        build(lpips="nowhere.safetensors").load_frozen()


def test_learning_rates_of_stage_one_are_the_sheets():
    cosine = SCHEDULES.build({"name": "cosine", "warmup": 50_000.0, "final": 0.5})
    want = {25_000: 5e-5, 50_000: 1e-4, 275_000: 7.5e-5, 500_000: 5e-5}
    for step, rate in want.items():
        assert 1e-4 * cosine(np.float64(step), 500_000.0) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": (8, 8, 3)}, "patch 2 and grid"),
        ({"stage": "encoder"}, "stage"),
        ({"discriminator": {"name": "dit"}}, "discriminator"),
        ({"model": {"quantizer": {"name": "lfq"}}, "objective": {"revive": True}}, "revive"),
    ],
)
def test_what_does_not_fit_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        build(**fields)


@pytest.mark.slow
def test_sixteen_digits_are_learnt_by_heart():
    """PSNR above 35 dB, through 16 codes of 256 an image."""
    size = {"depth": 2, "heads": 4, "width": 64, "hidden": 256}
    task = build(
        model={
            "encoder_size": size,
            "decoder_size": size,
            "quantizer": {"name": "vq", "size": 256, "dim": 8},
        }
    )
    params = task.init(keys.key(0, "init"))
    mutable = params["mutable"]
    params = jax.tree.map(
        lambda x: getattr(x, "value", x), params["params"], is_leaf=lambda x: hasattr(x, "value")
    )
    batch = jax.tree.map(jnp.asarray, images(16))
    steps = 2000
    optimiser = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), b2=0.99, weight_decay=1e-4)
    objective = task.players[0].objective

    @jax.jit
    def step(carry, i):
        params, opt, mutable = carry
        view = View({}, mutable, {}, {})
        grads, aux = jax.grad(
            lambda p: objective(p, view, batch, keys.key(0, "step", i), Progress(i, 0, 1)),
            has_aux=True,
        )(params)
        updates, opt = optimiser.update(grads, opt, params)
        psnr = aux.metrics["psnr"][0] / 16
        return (optax.apply_updates(params, updates), opt, aux.mutable), psnr

    carry = params, optimiser.init(params), mutable
    _, psnr = jax.lax.scan(step, carry, jnp.arange(steps))
    assert float(psnr[-1]) > 35, f"{float(psnr[-1]):.1f} dB"
