import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen import meta
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.parallel import MeshSpec, Rules, active, constrain, gather, state_shardings, using

SPLIT_ALL = Rules(replicate_below=0)


@pytest.fixture
def mesh():
    return MeshSpec(data=1, fsdp=2, tensor=2, context=2).build()


def names(*axes):
    return nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        h = nn.Dense(16, kernel_init=names("embed", "mlp"), use_bias=False, name="up")(x)
        return x + nn.Dense(8, kernel_init=names("mlp", "embed"), name="down")(h), None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
            metadata_params={meta.PARTITION_NAME: "layers"},
        )
        return scan(name="blocks")(constrain(x, ("batch", "seq", "embed")), None)[0]


def boxed_state(tx):
    def build():
        params = Stack().init(jax.random.key(0), jnp.zeros((1, 4, 8)))["params"]
        ema = jax.tree.map(lambda x: x.astype(jnp.float32), params)
        return {
            "step": jnp.zeros((), jnp.int32),
            "params": params,
            "opt": tx.init(params),
            "e": ema,
        }

    return jax.eval_shape(build)


def specs(tree):
    return {path: sharding.spec for path, sharding in flatten(tree).items()}


def test_parameters_adam_moments_and_ema_are_sharded_alike(mesh):
    abstract = boxed_state(optax.adamw(1e-3))
    shardings = state_shardings(abstract, mesh, SPLIT_ALL)
    assert jax.tree.structure(shardings) == jax.tree.structure(meta.unbox(abstract))
    found = specs(shardings)
    copies = [path for path in found if path.endswith("blocks/up/kernel")]
    assert len(copies) == 4  # parameter, mu, nu, EMA
    assert {found[path] for path in copies} == {P(None, "fsdp", "tensor")}
    assert found["params/blocks/down/kernel"] == P(None, "tensor", "fsdp")
    assert found["step"] == found["params/blocks/down/bias"] == P()


def test_adafactor_factors_keep_the_names_they_certainly_have(mesh):
    tx = optax.adafactor(1e-3, min_dim_size_to_factor=4)
    abstract = boxed_state(tx)
    found, shapes = specs(state_shardings(abstract, mesh, SPLIT_ALL)), flatten(meta.unbox(abstract))
    rows = next(p for p in found if "v_row" in p and p.endswith("up/kernel"))
    cols = next(p for p in found if "v_col" in p and p.endswith("up/kernel"))
    assert {shapes[rows].shape: found[rows], shapes[cols].shape: found[cols]} == {
        (3, 8): P(None, "fsdp"),
        (3, 16): P(None, "tensor"),
    }
    placeholder = next(p for p in found if "/v/" in p and p.endswith("up/kernel"))
    assert shapes[placeholder].shape == (1,) and found[placeholder] == P(None)


def test_ambiguous_factor_of_a_square_kernel_is_replicated(mesh):
    box = lambda shape: nn.LogicallyPartitioned(  # noqa: E731
        jax.ShapeDtypeStruct(shape, jnp.float32), ("embed", "heads")
    )
    tree = {"params": {"k": box((8, 8))}, "v_row": {"k": box((8,))}}
    found = specs(state_shardings(tree, mesh, SPLIT_ALL))
    assert found == {"params/k": P("fsdp", "tensor"), "v_row/k": P(None)}


def test_small_parameters_are_not_split_over_fsdp_but_over_tensor(mesh):
    found = specs(state_shardings(boxed_state(optax.sgd(1.0)), mesh))
    assert found["params/blocks/up/kernel"] == P(None, None, "tensor")
    exact = Rules(replicate_below=3 * 8 * 16 * 4)  # the size itself is not below
    found = specs(state_shardings(boxed_state(optax.sgd(1.0)), mesh, exact))
    assert found["params/blocks/up/kernel"] == P(None, "fsdp", "tensor")


def test_state_is_born_sharded(mesh):
    abstract = boxed_state(optax.sgd(1.0))
    shardings = state_shardings(abstract, mesh, SPLIT_ALL)["params"]
    with using(mesh, SPLIT_ALL):
        init = lambda: meta.unbox(Stack().init(jax.random.key(0), jnp.zeros((1, 4, 8))))  # noqa: E731
        params = jax.jit(init, out_shardings={"params": shardings})()["params"]
    kernel = params["blocks"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 4, 8)


def leaf(shape, axes):
    return {"net": {"w": nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), axes)}}


@pytest.mark.parametrize(
    ("shape", "axes", "rules", "words"),
    [
        ((8, 8), ("embed", "embed"), Rules(), ["net/w", "dimensions 0", "and 1", "fsdp", "null"]),
        ((8, 8), ("mlp", "heads"), Rules(), ["net/w", '"mlp"', '"heads"', "tensor"]),
        ((8, 7), (None, "mlp"), Rules(), ["net/w", "dimension 1", "mlp", "of 7", "mesh.tensor"]),
        ((8, 8), ("embd", None), Rules(), ["net/w", '"embd"']),
        ((6, 8), ("mlp", None), Rules({"mlp": ["fsdp", "tensor"]}, 0), ["of 6", "4 parts"]),
    ],
)
def test_errors_name_parameter_dimension_axis_and_mend(mesh, shape, axes, rules, words):
    with pytest.raises(UserError) as error:
        state_shardings(leaf(shape, axes), mesh, rules)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_overrides_replace_rules_and_are_checked(mesh):
    rules = Rules({"mlp": None, "heads": ["tensor", "context"]}, 0)
    assert specs(state_shardings(leaf((8, 8), ("mlp", "heads")), mesh, rules)) == {
        "net/w": P(None, ("tensor", "context"))
    }
    with pytest.raises(ValueError, match="embd"):
        Rules({"embd": None})
    with pytest.raises(ValueError, match="model"):
        Rules({"embed": "model"})
    with pytest.raises(ValueError, match="replicate_below"):
        Rules(replicate_below=-1)


def test_constrain_shards_activations_inside_and_around_a_trace(mesh):
    fn = lambda x: constrain(x * 2, ("batch", "seq", "mlp"))  # noqa: E731

    def inside(x):
        with using(mesh):
            return fn(x)

    x = jnp.ones((4, 6, 8))
    with using(mesh):
        around = jax.jit(fn)(x)
    for y in (around, jax.jit(inside)(x)):
        assert y.sharding.shard_shape(y.shape) == (2, 3, 4)
    assert len(jax.jit(lambda x: fn(x))(x).sharding.device_set) == 1  # nothing configured


def test_activations_keep_their_embedding_whole_where_fsdp_splits_the_batch(mesh):
    with using(mesh):
        y = jax.jit(lambda x: constrain(x, ("batch", "seq", "embed")))(jnp.ones((4, 6, 8)))
        assert y.sharding.shard_shape(y.shape) == (2, 3, 8)
        with pytest.raises(UserError, match="heads"):
            constrain(jnp.ones((4, 4, 4)), ("batch", "heads", "mlp"))
        with pytest.raises(UserError, match="of 3 is not divisible"):
            constrain(jnp.ones((3, 4, 4)), ("batch", "seq", "embed"))
        constrain(jnp.ones((1, 4, 4)), ("batch", "seq", "embed"))  # initialisation


def test_constraint_survives_scan_remat_and_gradient(mesh):
    def loss(x):
        body = jax.checkpoint(lambda c, _: (constrain(jnp.sin(c), ("batch", None, "mlp")), None))
        return jax.lax.scan(body, x, None, length=2)[0].sum()

    with using(mesh):
        gradient = jax.jit(jax.grad(loss))(jnp.ones((4, 6, 8)))
    want = jax.grad(lambda x: jnp.sin(jnp.sin(x)).sum())(jnp.ones((4, 6, 8)))
    np.testing.assert_allclose(gradient, want, rtol=1e-6)
    assert gradient.sharding.shard_shape(gradient.shape) == (2, 6, 4)


def test_forgotten_context_raises(mesh):
    x = jnp.ones((4, 4))
    with jax.set_mesh(mesh), pytest.raises(RuntimeError, match="does not run under"):
        constrain(x, ("batch", None))
    other = MeshSpec(data=8).build()
    with using(mesh), jax.set_mesh(other), pytest.raises(RuntimeError, match="current mesh"):
        constrain(x, ("batch", None))
    caught = []

    def thread(explicit):
        try:
            if explicit:
                with using(None):
                    constrain(x, ("batch", None))
            else:
                constrain(x, ("batch", None))
        except RuntimeError as error:
            caught.append(str(error))

    with using(mesh):
        for explicit in (False, True):
            worker = threading.Thread(target=thread, args=(explicit,))
            worker.start()
            worker.join()
    assert len(caught) == 1 and "parallel.using" in caught[0]
    assert active() is None and constrain(x, ("batch", None)) is x


def test_using_restores_what_was_before(mesh):
    with using(mesh, SPLIT_ALL) as outer:
        with using(None):
            assert active() is None
        assert active() == outer
    with pytest.raises(ZeroDivisionError), using(mesh):
        1 / 0  # noqa: B018
    assert active() is None


def test_wrong_number_of_names_is_refused():
    with pytest.raises(ValueError, match="2 axis names"):
        constrain(jnp.ones((2, 2, 2)), ("batch", "embed"))


def test_gather_keeps_rows_where_the_partitioner_would_permute_them():
    """h + g (x @ w): wrong in jax 0.10.2 and 0.12 on this mesh if w stays split over fsdp."""
    mesh = MeshSpec(data=2, fsdp=2, tensor=2).build()
    rng = np.random.default_rng(0)
    h, g, x = (rng.normal(size=(8, n)).astype(np.float32) for n in (16, 16, 32))
    w = rng.normal(size=(32, 16)).astype(np.float32)
    batch, split = ("data", "fsdp"), NamedSharding(mesh, P("tensor", "fsdp"))
    args = [
        jax.device_put(a, NamedSharding(mesh, spec))
        for a, spec in ((h, P(batch)), (g, P(batch, "tensor")), (x, P(batch, "tensor")))
    ]

    def loss(w, h, g, x):
        with using(mesh):
            y = constrain(h + g * (x @ gather(w, ("mlp", "embed"))), ("batch", None))
        return jnp.sum(jnp.sin(y)), y

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, y), gradient = step(jax.device_put(w, split), *args)
    np.testing.assert_allclose(y, h + g * (x @ w), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradient, x.T @ (np.cos(h + g * (x @ w)) * g), rtol=1e-3, atol=1e-3)
    assert gradient.sharding == split


def test_gather_changes_nothing_where_nothing_is_split_over_the_batch(mesh):
    w = jnp.ones((6, 8))
    assert gather(w, ("embed", "mlp")) is w
    with using(mesh):
        assert gather(w, ("mlp", None)) is w
        assert gather(jnp.ones((5, 8)), ("embed", None)).shape == (5, 8)  # not divisible: whole
    with using(MeshSpec().build()):
        assert gather(w, ("embed", "mlp")) is w
