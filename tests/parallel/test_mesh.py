import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from genjax.core.errors import UserError
from genjax.core.registry import construct
from genjax.parallel import AXES, MeshSpec


@dataclasses.dataclass(frozen=True)
class Device:
    """Stands in for a chip of one of several slices."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def slices(count, chips):
    return [Device(i, i // chips, i // chips) for i in range(count * chips)]


def test_default_puts_every_device_on_data_with_auto_axes():
    mesh = MeshSpec().build()
    assert dict(mesh.shape) == {"data": 8, "fsdp": 1, "tensor": 1, "context": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 4 and mesh.axis_names == AXES


def test_minus_one_fills_and_devices_may_be_given():
    assert dict(MeshSpec(data=2, fsdp=-1, tensor=2).build().shape)["fsdp"] == 2
    assert MeshSpec().build(jax.devices()[:1]).size == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (MeshSpec(fsdp=3), ["mesh.fsdp=3", "does not divide the 8 devices"]),
        (MeshSpec(data=2, fsdp=2), ["mesh.data=2", "together 4", "8 devices", "-1"]),
        (MeshSpec(dcn_fsdp=2, dcn_data=1), ["mesh.dcn_fsdp=2", "together 2", "1 slices"]),
    ],
)
def test_sizes_that_do_not_fit_name_the_keys(spec, words):
    with pytest.raises(UserError) as error:
        spec.build()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_impossible_sizes_are_refused_with_the_key():
    with pytest.raises(UserError, match=r"config\.mesh: tensor must be positive"):
        construct(MeshSpec, {"tensor": 0}, "config.mesh")
    with pytest.raises(ValueError, match="only one"):
        MeshSpec(fsdp=-1)


def test_slices_fill_dcn_data_and_stay_outermost():
    layout = MeshSpec(data=1, fsdp=2, tensor=-1).layout(slices(4, 4))
    assert layout.shape == (4, 2, 2, 1)
    index = np.vectorize(lambda d: d.slice_index)(layout)
    for i in range(4):
        assert set(index[i].ravel()) == {i}  # a slice lies whole within one part of data


def test_slices_may_be_split_between_data_and_fsdp():
    layout = MeshSpec(data=1, fsdp=4, dcn_data=2, dcn_fsdp=2).layout(slices(4, 4))
    index = np.vectorize(lambda d: d.slice_index)(layout)[..., 0, 0]
    assert layout.shape == (2, 8, 1, 1)
    assert index.tolist() == [[0] * 4 + [1] * 4, [2] * 4 + [3] * 4]


def test_processes_count_as_slices_when_asked_for_without_slices():
    devices = [Device(i, 0, i // 4) for i in range(8)]
    layout = MeshSpec(data=1, fsdp=4, dcn_data=2).layout(devices)
    assert np.vectorize(lambda d: d.process_index)(layout)[:, :, 0, 0].tolist() == [
        [0] * 4,
        [1] * 4,
    ]
    with pytest.raises(UserError, match=r"mesh\.dcn_data=3"):
        MeshSpec(dcn_data=3).layout(devices)
