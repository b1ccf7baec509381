import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genjax.core import keys, tree
from genjax.core.errors import UserError

TREE = {"a": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "b": [jnp.ones(1)]}


def test_rules_take_the_first_match_and_must_cover_everything():
    mask = tree.by_rules(TREE, (("bias$", 0), (".*", 1)), "decay")
    assert mask == {"a": {"kernel": 1, "bias": 0}, "b": [1]}
    with pytest.raises(UserError, match='no rule covers parameter "b/0"'):
        tree.by_rules(TREE, (("^a", 1),), "decay")
    with pytest.raises(UserError, match='"gamma" decides no parameter'):
        tree.by_rules(TREE, (("gamma", 0), (".*", 1)), "decay")


def test_nested_is_the_inverse_of_flatten():
    flat = {"a/b": 1, "a/c/d": 2, "e": 3}
    assert tree.nested(flat) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert tree.flatten(tree.nested(flat)) == flat


def test_sizes():
    assert tree.size(TREE) == 10 and tree.nbytes(TREE) == 40
    assert list(tree.flatten(TREE)) == ["a/bias", "a/kernel", "b/0"]


def test_keys_depend_on_seed_purpose_and_counters_only():
    def draw(*a):
        return float(jax.random.normal(keys.key(*a)))

    assert draw(0, "noise", 3) == draw(0, "noise", 3)
    assert (
        len({draw(0, "noise", 3), draw(1, "noise", 3), draw(0, "time", 3), draw(0, "noise")}) == 4
    )


def test_a_sample_has_the_same_noise_in_any_batch():
    k = keys.key(0, "sample")
    whole = keys.normal(keys.per_sample(k, jnp.arange(8)), (3,))
    part = keys.normal(keys.per_sample(k, jnp.asarray([5, 2])), (3,))
    np.testing.assert_array_equal(whole[jnp.asarray([5, 2])], part)
