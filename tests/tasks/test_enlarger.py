import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import meta

from genjax.core import keys
from genjax.core.errors import UserError
from genjax.core.registry import construct, expand
from genjax.core.types import Progress, View
from genjax.tasks import Enlarger

pytestmark = pytest.mark.slow  # three players, each compiled

TOWER = {"depth": 1, "heads": 2, "width": 8, "hidden": 8}
TOKENIZER = {
    "name": "vit_vqgan",
    "encoder_size": TOWER,
    "decoder_size": TOWER,
    "quantizer": {"name": "vq", "size": 16, "dim": 4},
    "patch": 2,
    "grid": (2, 2),
}


def build(**fields):
    chosen = {
        "model": {"name": "wdsr", "blocks": 1, "width": 4},
        "codec": {"name": "vit_vqgan", "model": TOKENIZER},
        "objective": {"perceptual": 0.0},
        **fields,
    }
    return construct(Enlarger, expand(Enlarger, chosen, "task"), "task")


@pytest.fixture(scope="module")
def frozen():
    module = build().codec.model
    variables = meta.unbox(module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))))
    return build().load_frozen({"params": variables["params"]})


def test_what_is_enlarged_is_the_reconstruction_of_block_means(frozen):
    task = build()
    assert task.image == (8, 8, 3)
    small = jax.random.uniform(jax.random.key(1), (2, 4, 4, 3))
    large = jnp.repeat(jnp.repeat(small, 2, axis=1), 2, axis=2)
    noise = jnp.tile(jnp.array([[0.01, -0.01], [-0.01, 0.01]]), (4, 4))[..., None]
    want = task.codec.decode(frozen["codec"], task.codec.encode(frozen["codec"], small))
    got = task.small(frozen, large + noise)
    np.testing.assert_allclose(got, jnp.clip(want, 0, 1), atol=1e-4)


def test_players_and_gradients(frozen):
    task = build(discriminator={"name": "stylegan_discriminator", "multiplier": 0.001})
    assert [p.name for p in task.players] == ["model", "discriminator", "r1"]
    params = meta.unbox(task.init(keys.key(0, "init")))["params"]
    image = jax.random.randint(jax.random.key(2), (2, 8, 8, 3), 0, 256).astype(jnp.uint8)
    batch = {"main": {"image": image}}
    args = batch, keys.key(0, "step"), Progress(0, 0, 1)

    @jax.jit
    def gradients(params, frozen):
        out = {}
        for player in task.players[:2]:
            mine = {n: params[n] for n in player.trains}
            others = {n: p for n, p in params.items() if n not in mine}
            view = View(others, {}, {}, frozen)
            loss = lambda p: player.objective(p, view, *args)  # noqa: B023, E731
            out[player.name] = jax.grad(loss, has_aux=True)(mine)
        return out

    out = gradients(params, frozen)
    for name, (gradient, _) in out.items():
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient)), name
        assert any((g != 0).any() for g in jax.tree.leaves(gradient)), name
    sums = out["model"][1].metrics
    total = sums["l2"][0] + 0.1 * sums["adversarial"][0]
    assert sums["loss"][0] == pytest.approx(float(total), rel=1e-5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="enlarges no images"):
        build(model={"name": "dit"})
    with pytest.raises(UserError, match="discriminator"):
        build(discriminator={"name": "dit"})
    with pytest.raises(UserError, match=r"task\.codec\.path"):
        build().load_frozen()
