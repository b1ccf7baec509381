"""The compiled step of the toy tasks, without the loop around it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.parallel import Rules, to_global
from genjax.training import guard
from genjax.training.state import acting, consumed, place_frozen, planned, restart, transforms
from genjax.training.step import Recipe, make_step
from tests.training import loop_toys as toys


class Setting:
    """A task's recipe and first state on a mesh."""

    def __init__(self, task, mesh=None, accumulate=1, players=None):
        self.task, self.mesh = task, mesh or toys.mesh(1)
        self.run = toys.run_of("unused", task, mesh=self.mesh)
        self.players = players or task.players

        def make(params):
            return transforms(task.players, self.run.optimizers, params, toys.BATCH, 160)

        emas = tuple(self.run.emas)
        self.abstract, self.init, tx = planned(task, make, emas, (), self.mesh, Rules())
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract)
        self.recipe = Recipe(
            self.players, tx, self.run.emas, toys.BATCH, accumulate, self.mesh, Rules(), shardings
        )
        self.frozen = place_frozen(task.load_frozen(), self.mesh, Rules())
        self._compiled = {}

    def state(self):
        return self.init(np.uint32(3))

    def batch(self, step=0):
        stream = toys.Stream(step * toys.BATCH, toys.BATCH)
        return to_global(dict.fromkeys(self.task.streams, next(stream)), self.mesh)

    def step(self, state, number, players=None, batch=None):
        players = players or self.players
        names = tuple(p.name for p in players)
        fn = self._compiled.setdefault(names, make_step(self.recipe, players))
        batch = self.batch(number) if batch is None else batch
        return fn(state, self.frozen, batch, np.uint32(3), np.uint32(160))


def close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), **tolerance)


def test_accumulation_equals_the_full_batch_and_moves_no_rows():
    task = toys.Pair(noise=0.0, weighted=True)
    whole = Setting(task)
    split = Setting(task, toys.mesh(4, data=2, fsdp=2), accumulate=4)
    one, report = whole.step(whole.state(), 0)
    four, parts = split.step(split.state(), 0)
    # the moments are the gradients (x 0.1); the parameters' first Adam step is only their signs
    close(four.opt["model"][0][1].mu, one.opt["model"][0][1].mu, rtol=1e-5, atol=1e-8)
    close(parts.metrics, report.metrics, rtol=1e-5)
    assert float(report.metrics["loss"][1]) == sum(i % 3 for i in range(toys.BATCH))
    close(four.mutable, one.mutable)
    args = (split.state(), split.frozen, split.batch(), np.uint32(3), np.uint32(160))
    text = make_step(split.recipe, split.players).lower(*args).compile().as_text()
    assert "all-reduce" in text
    for moving in ("all-gather", "all-to-all", "collective-permute"):
        assert moving not in text


def test_emas_follow_their_law_once_a_step():
    setting = Setting(toys.Pair())
    state = setting.state()
    expected = {k: jax.tree.map(np.asarray, state.params) for k in ("fixed", "half")}
    for number in range(3):
        state, _ = setting.step(state, number)
        seen = number * toys.BATCH
        length = min(100.0, 0.05 * seen)
        half = 0.5 ** (toys.BATCH / length) if seen else 0.0
        for name, d in (("fixed", 0.9), ("half", half)):
            expected[name] = jax.tree.map(
                lambda e, p, d=d: d * e + (1 - d) * np.asarray(p), expected[name], state.params
            )
    close(state.ema, expected, rtol=1e-6, atol=1e-7)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state.ema))
    assert int(state.step) == 3


def test_a_resting_player_does_not_move():
    setting = Setting(toys.Gan())
    state, report = setting.step(setting.state(), 0)
    assert set(report.metrics) == {"D/loss", "D/grad_norm", "G/loss", "G/grad_norm"}
    before = jax.tree.map(np.asarray, state)
    after, report = setting.step(state, 1, acting(setting.players, 1))
    assert set(report.bad) == {"D"}
    for part in ("params", "opt"):
        old, new = getattr(before, part), getattr(after, part)
        assert toys.same(old["G" if part == "opt" else "g"], new["G" if part == "opt" else "g"])
        assert not toys.same(old["D" if part == "opt" else "d"], new["D" if part == "opt" else "d"])
    for name in ("fixed", "half"):
        assert toys.same(before.ema[name]["g"], after.ema[name]["g"])
        assert not toys.same(before.ema[name]["d"], after.ema[name]["d"])


def test_multipliers_and_projection():
    def unit(trained):
        up = trained["a"]["up"]
        up = {**up, "kernel": up["kernel"] / jnp.linalg.norm(up["kernel"])}
        return {**trained, "a": {**trained["a"], "up": up}}

    task = toys.Pair()
    player = dataclasses.replace(task.players[0], multipliers=(("b/down", 0.0),), project=unit)
    setting = Setting(task, players=(player,))
    first = jax.tree.map(np.asarray, setting.state().params)
    state, report = setting.step(setting.state(), 0)
    assert toys.same(first["b"]["down"], state.params["b"]["down"])
    assert not toys.same(first["b"]["up"], state.params["b"]["up"])
    assert float(jnp.linalg.norm(state.params["a"]["up"]["kernel"])) == pytest.approx(1, abs=1e-6)
    assert report.metrics["grad_norm"][0] > 0
    wrong = dataclasses.replace(player, multipliers=(("absent", 0.0),))
    with pytest.raises(UserError, match='"absent" decides no parameter'):
        Setting(task, players=(wrong,)).step(setting.state(), 0, (wrong,))


def test_the_first_bad_tensor_is_named():
    setting = Setting(toys.Pair())
    state, batch = setting.state(), setting.batch()

    def found(state, batch):
        # donation would eat the state
        copy = jax.tree.map(jnp.copy, state)
        index = int(setting.step(copy, 0, batch=batch)[1].bad["model"])
        trained = state.params
        return (
            None
            if index == guard.FINE
            else guard.names(batch, trained, state.mutable, trained)[index]
        )

    assert found(state, batch) is None
    x = batch["main"]["x"].at[3, 1].set(jnp.nan)
    assert found(state, {"main": {**batch["main"], "x": x}}) == "batch/main/x"
    b = state.params["b"]
    b = {**b, "down": {**b["down"], "kernel": b["down"]["kernel"].at[2, 0].set(jnp.inf)}}
    bad = dataclasses.replace(state, params={**state.params, "b": b})
    assert found(bad, batch) == "params/b/down/kernel"
    assert guard.bad_parameter(bad.params) == "b/down/kernel"
    assert guard.bad_parameter(state.params) is None
    huge = {**batch["main"], "target": batch["main"]["target"] + 1e30}
    assert found(state, {"main": huge}) == "loss"


def test_a_gradient_that_overflows_is_named():
    setting = Setting(toys.Pair(poison="b"))
    state = dataclasses.replace(setting.state(), step=setting.state().step + 5)
    _, report = setting.step(state, 0)
    names = guard.names(
        setting.batch(), setting.abstract.params, setting.abstract.mutable, setting.abstract.params
    )
    assert names[int(report.bad["model"])] == "gradient of params/b/up/kernel"


def test_streams_are_read_when_their_players_act():
    players = toys.Gan().players
    assert [consumed(players, "prior", False, n) for n in (0, 1, 5, 6, 11)] == [0, 1, 1, 2, 3]
    assert consumed(players, "main", True, 11) == 11
    late = (dataclasses.replace(players[1], start=3, every=4),)
    steps = [n for n in range(20) if acting(late, n)]
    assert steps == [3, 7, 11, 15, 19]
    assert [consumed(late, "prior", False, n) for n in range(20)] == [
        sum(s < n for s in steps) for n in range(20)
    ]


def test_restarting_from_weights_restarts_their_averages():
    setting = Setting(toys.Pair(), toys.mesh(8, tensor=8, data=1))
    state = setting.state()
    new = jax.tree.map(lambda x: np.asarray(x) + 1, state.params["a"])
    out = restart(state, {"a": new})
    assert toys.same(out.params["a"], new) and toys.same(out.ema["half"]["a"], new)
    assert toys.same(out.params["b"], state.params["b"])
    kernel = out.params["a"]["up"]["kernel"]
    assert kernel.sharding == state.params["a"]["up"]["kernel"].sharding
    assert kernel.addressable_shards[0].data.shape == (2, 1), "born and restarted sharded"


def test_wrong_optimisers_and_networks_are_named():
    task = toys.Gan()
    with pytest.raises(UserError, match=r"config\.optimizer\.G"):
        transforms(task.players, {"D": toys.run_of("u", task).optimizers["D"]}, {"d": {}}, 16, 1)
    shared = tuple(dataclasses.replace(p, optimizer="one") for p in task.players)
    with pytest.raises(UserError, match="train different networks"):
        transforms(shared, {"one": None}, {}, 16, 1)
    with pytest.raises(UserError, match="no network 'x'; known: \\['d', 'g'\\]"):
        planned(task, lambda p: {}, (), ("x",), toys.mesh(1), Rules())


def test_an_optimiser_counts_the_images_between_its_updates():
    seen = {}

    class Recorder:
        def __init__(self, name):
            self.name = name

        def build(self, params, batch, total_images):
            seen[self.name] = (set(params), batch, total_images)

    players = toys.Gan().players
    shared = (
        *players,
        dataclasses.replace(players[0], name="R", every=16, optimizer="D"),
    )
    params = {"d": {}, "g": {}}
    transforms(shared, {"D": Recorder("D"), "G": Recorder("G")}, params, 170, 1000)
    assert seen == {"D": ({"d"}, 160, 1000), "G": ({"g"}, 850, 1000)}
