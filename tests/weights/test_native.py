"""A network as a folder of its own comes back as it went in."""

import numpy as np
import pytest

from genjax.core.errors import UserError
from genjax.core.tree import flatten
from genjax.models.dit import DiT
from genjax.models.vae import KLVAE
from genjax.weights import native

DIT = DiT(patch=2, width=8, depth=1, heads=2, num_classes=3, mlp_ratio=2.5, dtype="bfloat16")
VAE = KLVAE(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)
VARIABLES = {
    "params": {"a": {"b": np.arange(6.0).reshape(2, 3)}, "c": np.float16([1.5])},
    "constants": {"d": np.ones(2, np.float32)},
}


@pytest.mark.parametrize("module", [DIT, VAE], ids=["dit", "vae"])
def test_module_variables_and_facts_come_back(tmp_path, module):
    folder = str(tmp_path / "x" / "folder")
    assert not native.is_native(folder)
    native.write_native(folder, module, VARIABLES, {"format": "sit", "shape": [8, 8, 4]})
    again, variables, facts = native.read_native(folder)
    assert again == module and facts["format"] == "sit" and facts["shape"] == [8, 8, 4]
    want = flatten(VARIABLES)
    for path, leaf in flatten(variables).items():
        assert leaf.dtype == want[path].dtype
        np.testing.assert_array_equal(leaf, want[path])
    assert flatten(variables).keys() == want.keys()
    names = sorted(p.name for p in (tmp_path / "x" / "folder").iterdir())
    assert names == ["model.json", "weights.safetensors"]


def test_damage_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder of `genjax convert`"):
        native.read_native(str(tmp_path))
    native.write_native(str(tmp_path), DIT, VARIABLES, {"format": "sit"})
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model.json: not readable"):
        native.read_native(str(tmp_path))
    (tmp_path / "model.json").write_text('{"network": {"name": "dit", "widht": 8}}')
    with pytest.raises(UserError, match=r"model\.json: network\.widht: unknown key"):
        native.read_native(str(tmp_path))
