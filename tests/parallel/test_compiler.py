import jax.numpy as jnp
import pytest

from genjax.core.registry import construct, expand
from genjax.parallel import MeshSpec, options_for
from genjax.training import TrainSettings


def test_options_go_to_the_compiler_that_knows_them():
    mesh = MeshSpec().build()
    wanted = {"xla_tpu_a": 1, "xla_jf_b": True, "xla_gpu_c": "x", "xla_cpu_d": 2, "xla_e": False}
    assert options_for(mesh, wanted) == {"xla_cpu_d": 2, "xla_e": False}
    assert options_for(mesh, {}) == {}


def test_options_are_flags_numbers_or_words():
    given = expand(TrainSettings, {"compiler": {"xla_tpu_a": "1"}}, "train")
    assert construct(TrainSettings, given, "train").compiler == {"xla_tpu_a": "1"}
    with pytest.raises(ValueError, match=r"compiler\.xla_tpu_a"):
        TrainSettings(compiler={"xla_tpu_a": jnp.ones(2)})
