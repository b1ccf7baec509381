import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genjax.core import keys
from genjax.core.errors import UserError
from genjax.core.types import Progress, View
from genjax.models.parti import Parti
from genjax.models.vit_vqgan import ViTVQGAN
from genjax.objectives.codes import NextCode
from genjax.parallel import MeshSpec
from genjax.solvers.decoding import Categorical
from genjax.tasks.autoregressive import Autoregressive, DecodingSettings
from genjax.tasks.generate import Generator
from genjax.tasks.image_codes import TokenizerCodec


@dataclasses.dataclass(frozen=True)
class Painter(TokenizerCodec):
    """A tokenizer of 4 x 4 codes whose pixel is the code's number over 10."""

    size = 11
    grid = (4, 4)
    image = (4, 4, 1)

    def decode(self, frozen, codes):
        return codes.reshape(-1, 4, 4, 1) / 10.0


MODEL = Parti(
    codes=11,
    grid=(4, 4),
    vocab=9,
    text_length=5,
    encoder_depth=1,
    depth=2,
    width=32,
    hidden=64,
    heads=2,
    kernel=3,
    dropout=0.0,
)
TASK = Autoregressive(
    MODEL,
    NextCode(),
    Painter(model=ViTVQGAN()),
    DecodingSettings(solver=Categorical(), cache="float32"),
)
TEXT = np.array([[3, 4, 1, 0, 0], [5, 1, 0, 0, 0], [3, 3, 3, 8, 1], [2, 1, 0, 0, 0]], np.int32)


@pytest.fixture(scope="module")
def params():
    made = nn.unbox(TASK.init(jax.random.key(0)))["params"]["model"]
    return jax.tree.map(lambda x: 6 * x if x.ndim == 2 else x, made)


def draw(task, params, cond, seed=0):
    sample_keys = keys.per_sample(jax.random.key(seed), np.arange(4))
    made = jax.jit(lambda p, r, c: task.draw_codes(p, r, sample_keys, c))
    return np.asarray(made(params, task.rows(), cond))


def guided(weight, **fields):
    guidance = dataclasses.replace(TASK.sampler.guidance, weight=weight, **fields)
    return TASK.with_sampler(guidance=guidance)


def test_guidance(params):
    cond = {"tokens": TEXT}
    plain = draw(TASK, params, cond)
    np.testing.assert_array_equal(draw(guided(1.0), params, cond), plain)
    # The doubled batch with w = 1 at every position, and one branch with w = 0.
    np.testing.assert_array_equal(draw(guided(3.0, stop=0.0), params, cond), plain)
    np.testing.assert_array_equal(draw(guided(0.0), params, cond), draw(TASK, params, None))
    assert (draw(guided(4.0), params, cond) != plain).any()


def test_given_codes_stay_and_a_prefill_changes_nothing(params):
    known = np.full((4, 16), -1, np.int32)
    known[:, :8] = np.arange(8)
    known[:, 11] = 3
    cond = {"tokens": TEXT, "codes": known}
    made = draw(guided(2.0), params, cond)
    np.testing.assert_array_equal(made[known >= 0], known[known >= 0])
    greedy = dataclasses.replace(TASK.solver, temperature=0.0)
    slow = guided(2.0).with_sampler(solver=greedy)
    fast = slow.with_sampler(prefill=2)
    assert len(fast.rows()["t"]) == 8 and fast.nfe == 8
    np.testing.assert_array_equal(draw(fast, params, cond), draw(slow, params, cond))
    with pytest.raises(UserError, match="prefill"):
        draw(fast, params, {"tokens": TEXT})


def test_images_by_the_generator_are_the_same_on_eight_devices(params):
    task = guided(2.0)
    text = np.tile(TEXT, (2, 1))

    def images(mesh):
        generator = Generator(task, batch=8, mesh=mesh)
        drawn = generator(params, {}, num=8, labels=None, seed=1, given={"tokens": text})
        assert generator.evaluations == "16"
        return np.concatenate([x for x, _ in drawn])

    one = images(None)
    assert one.shape == (8, 4, 4, 1) and one.dtype == np.uint8
    np.testing.assert_array_equal(images(MeshSpec().build()), one)


def test_whole_texts_are_dropped_example_by_example():
    seen = {}

    def logits(params, codes, cond, *, train, key):
        seen[train] = cond["tokens"]
        return jnp.zeros((*codes.shape, 11))

    parts = dataclasses.replace(TASK.parts, logits=logits)
    objective = dataclasses.replace(TASK.objective, condition_dropout=0.5, dropout_start=100.0)
    text, codes = np.tile(TEXT, (25, 1)), np.zeros((100, 16), np.int32)
    codes[0] = -1
    batch = {"main": {"tokens": jnp.asarray(text), "codes": jnp.asarray(codes)}}
    view, args = View({}, {}, {}, {}), ({"model": {}},)
    for images, expected in ((0, 0), (100, 50)):
        progress = Progress(0, images, 1000)
        loss, aux = objective(parts, *args, view, batch, jax.random.key(0), progress)
        same = (np.asarray(seen[True]) == text).all(1)
        null = (np.asarray(seen[True]) == [1, 0, 0, 0, 0]).all(1)
        assert (same | null).all() and abs(int(null.sum()) - expected) <= (15 if images else 0)
        assert loss == pytest.approx(np.log(11), rel=1e-5)
        assert aux.metrics["loss"][1] == 99 * 16


@pytest.mark.slow
def test_sequences_are_learnt_and_said_again():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 11, (64, 16), dtype=np.int32)
    text = np.ones((64, 5), np.int32)
    text[:, :3] = np.stack(np.unravel_index(np.arange(64), (4, 4, 4)), 1) + 3
    objective = dataclasses.replace(TASK.objective, condition_dropout=0.0)
    task = dataclasses.replace(TASK, objective=objective)
    params = nn.unbox(task.init(jax.random.key(0)))["params"]
    tx = optax.adam(3e-3)
    batch = {"main": {"codes": jnp.asarray(codes), "tokens": jnp.asarray(text)}}
    view = View({}, {}, {}, {})

    @jax.jit
    def train(params, state):
        def loss(p):
            still = Progress(0, 0, 1)
            return objective(task.parts, p, view, batch, jax.random.key(0), still)[0]

        value, grad = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grad, state)
        return optax.apply_updates(params, updates), state, value

    state, value = tx.init(params), np.inf
    for _ in range(600):
        params, state, value = train(params, state)
        if value < 0.02:
            break
    assert value < 0.05
    greedy = task.with_sampler(solver=dataclasses.replace(task.solver, temperature=0.0))
    sample_keys = keys.per_sample(jax.random.key(0), np.arange(64))
    made = greedy.draw_codes(
        params["model"], greedy.rows(), sample_keys, {"tokens": jnp.asarray(text)}
    )
    np.testing.assert_array_equal(made, codes)
