"""Networks of score_sde_pytorch, `NCSNpp` (DDPM++, NCSN++) and `DDPM` ("score-sde").

Its modules are numbered in the order of execution (`all_modules.N`), with `module.` before every
name where the network was trained in parallel. Matrices are [out, in], convolutions [out, in, k,
k]; query, key, value and output of an attention are NIN_0 to NIN_3, [in, out].

Two things of the reference stay outside our network: it takes the logarithm of sigma itself (our
`time` is ln sigma where the embedding is "fourier"), and with `scale_by_sigma` it divides its
output by sigma (ours is minus the noise). `facts` says so in the terms of a config.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from genjax.core.arrays import Tree
from genjax.core.errors import UserError
from genjax.models.unet import UNet
from genjax.weights import layout
from genjax.weights.layout import Entry, entry
from genjax.weights.score_sde_config import FORMAT, configuration, module_of

_MODULES = "all_modules."
_PREFIX = "module."
_SIGMAS = "sigmas"
_RECORD = "score_sde"  # among the constants, ours alone: prefix, side, centred


def load(tensors: Mapping[str, np.ndarray], **fields: Any) -> tuple[UNet, dict[str, Tree]]:
    """Returns the module and {"params": tree, "constants": what else the file holds}.

    `fields` are the reference's configuration values, without their sections (`nf`, `ch_mult`,
    `image_size`, `centered`, ...). Raises `UserError` for unknown or contradicting fields, for
    those that are needed and not given, and for missing, unknown or wrongly shaped tensors.
    """
    prefix = _PREFIX if tensors and all(k.startswith(_PREFIX) for k in tensors) else ""
    bare = {k.removeprefix(prefix): v for k, v in tensors.items()}
    config = configuration(bare, fields)
    module = module_of(config)
    side = config["image_size"]
    size = (side, side, config["num_channels"])
    shapes = layout.parameter_shapes(module, size)
    sigmas = bare.get(_SIGMAS, np.zeros(0)).shape
    params = layout.read(
        FORMAT,
        bare,
        _entries(module, side, shapes),
        shapes,
        {_SIGMAS: sigmas},
        frozenset({_SIGMAS}),
    )
    kept = {_SIGMAS: bare[_SIGMAS]} if _SIGMAS in bare else {}
    kept[_RECORD] = np.array([bool(prefix), side, config["scale_by_sigma"]], np.int32)
    return module, {"params": params, "constants": kept}


def save(module: UNet, variables: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """Returns the tensors by the reference's names; the inverse of `load`.

    Their order depends on the resolution, which is `variables["constants"]["score_sde"]`
    (`constants` makes it for a network trained here; there is no table of sigmas then). Raises
    `UserError` for what the format cannot hold.
    """
    _refuse(module)
    kept = dict(variables.get("constants", {}))
    if _RECORD not in kept:
        raise UserError(f"{FORMAT}: names depend on the resolution; give constants of the network")
    prefixed, side, _ = (int(n) for n in kept.pop(_RECORD))
    channels = int(variables["params"]["in"]["kernel"].shape[2])
    shapes = layout.parameter_shapes(module, (side, side, channels))
    out = layout.write(_entries(module, side, shapes), variables["params"])
    out |= {k: np.asarray(v) for k, v in kept.items()}
    return {(_PREFIX if prefixed else "") + name: value for name, value in out.items()}


def constants(module: UNet, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Returns what `save` must know beside the parameters."""
    return {_RECORD: np.array([0, size[0], module.center], np.int32)}


def facts(module: UNet, variables: Mapping[str, Tree]) -> dict[str, Any]:
    """Returns "shape", "data_range" and "precond" (and "sigmas", its table's ends) of the network.

    VE networks (`scale_by_sigma`): eps with `negative`, told ln sigma (fourier) or the rank of
    sigma from the top (positional); the others: eps, told 999 t or the index.
    """
    _, side, ve = (int(n) for n in variables["constants"][_RECORD])
    channels = int(variables["params"]["in"]["kernel"].shape[2])
    out: dict[str, Any] = {
        "shape": [side, side, channels],
        "data_range": [0.0, 1.0] if module.center else [-1.0, 1.0],
        "precond": {"name": "eps", "time_scale": 999.0},
    }
    if ve:
        fourier = module.embedding == "fourier"
        time = {"time": "log_sigma"} if fourier else {"time": "reverse", "time_scale": 999.0}
        out["precond"] = {"name": "eps", "negative": True, **time}
        sigmas = variables["constants"].get(_SIGMAS)
        if sigmas is not None:
            table = np.sort(np.asarray(sigmas, np.float64))
            out["process"] = {
                "name": "ve", "sigma_min": float(table[0]), "sigma_max": float(table[-1])
            }  # fmt: skip
            if not fourier:
                out["precond"]["time_scale"] = float(table.size - 1)
    return out


def _refuse(module: UNet) -> None:
    if not isinstance(module, UNet):
        raise UserError(f"{FORMAT}: holds U-Nets, not {type(module).__name__}")
    want = {"heads": 1, "head_channels": 0, "decoder_attention": "last", "num_classes": 0,
            "augment": 0, "emb_mult": 4}  # fmt: skip
    if module.block == "adm":
        want = {"block": "biggan"}
    elif module.embedding != "fourier":
        want["embedding"], want["noise_mult"] = "sin_cos", 1
    else:
        want["noise_mult"] = 2
    for key, value in want.items():
        if getattr(module, key) != value:
            raise UserError(
                f"{FORMAT}: the format cannot hold this network's {key} ({getattr(module, key)!r})"
            )


class _Numbers:
    """Collects entries; the file's modules are numbered as they are added."""

    def __init__(self, ours: Mapping[str, tuple[int, ...]]):
        self.ours, self.entries, self.count = ours, [], 0

    @property
    def next(self) -> str:
        self.count += 1
        return f"{_MODULES}{self.count - 1}"

    def linear(self, path: str) -> None:
        self.entries += layout.linear(self.next, path, self.ours)

    def conv(self, path: str, part: str = "") -> None:
        self.entries += layout.conv(self.next + part, path, self.ours)

    def norm(self, path: str) -> None:
        self.entries += layout.norm(self.next, path, self.ours)

    def fourier(self, path: str) -> None:
        self.entries.append(entry(f"{self.next}.W", path, self.ours[path]))

    def block(self, path: str, index: tuple) -> None:
        """Adds a residual block and, where there is one, its attention."""
        name, ours = self.next, self.ours
        for i in range(2):
            self.entries += layout.norm(f"{name}.GroupNorm_{i}", f"{path}/norm{i}", ours, index)
            self.entries += layout.conv(f"{name}.Conv_{i}", f"{path}/conv{i}", ours, index)
        self.entries += layout.linear(f"{name}.Dense_0", f"{path}/affine", ours, index)
        if f"{path}/skip/kernel" in ours:
            self.skip(name, f"{path}/skip", index)
        if f"{path}/norm2/scale" in ours:
            self.attention(path, index)

    def skip(self, name: str, path: str, index: tuple) -> None:
        self.entries += layout.conv(f"{name}.Conv_2", path, self.ours, index)

    def attention(self, path: str, index: tuple) -> None:
        name, ours = self.next, self.ours
        self.entries += layout.norm(f"{name}.GroupNorm_0", f"{path}/norm2", ours, index)
        qkv, out = f"{path}/attention/qkv", f"{path}/attention/out"
        every, square = slice(None), lambda shape: (shape[0], shape[-1])
        for i in range(3):
            kernel, bias = ours[f"{qkv}/kernel"], ours[f"{qkv}/bias"]
            self.entries.append(entry(f"{name}.NIN_{i}.W", f"{qkv}/kernel", kernel, None,
                                      (*index, every, i, 0)))  # fmt: skip
            self.entries.append(entry(f"{name}.NIN_{i}.b", f"{qkv}/bias", bias, None,
                                      (*index, i, 0)))  # fmt: skip
        kernel, bias = ours[f"{out}/kernel"], ours[f"{out}/bias"]
        self.entries.append(entry(f"{name}.NIN_3.W", f"{out}/kernel", kernel, None, (*index, 0),
                                  square))  # fmt: skip
        self.entries.append(entry(f"{name}.NIN_3.b", f"{out}/bias", bias, None, index))


class _DDPMNumbers(_Numbers):
    """The same for blocks whose shortcuts are per-pixel dense layers."""

    def skip(self, name: str, path: str, index: tuple) -> None:
        kernel, bias = self.ours[f"{path}/kernel"], self.ours[f"{path}/bias"]
        at = (*index, 0, 0)
        self.entries.append(entry(f"{name}.NIN_0.W", f"{path}/kernel", kernel, None, at))
        self.entries.append(entry(f"{name}.NIN_0.b", f"{path}/bias", bias, None, index))


def _entries(module: UNet, side: int, ours: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """Returns where every tensor of the file lies in our parameters of the shapes `ours`."""
    fir = tuple(module.resample_filter) != (1, 1)
    strided = ".Conv2d_0" if fir else ".Conv_0"
    numbers = (_DDPMNumbers if module.block == "ddpm" else _Numbers)(ours)
    if module.embedding == "fourier":
        numbers.fourier("conditioning/fourier/frequencies")
    numbers.linear("conditioning/in")
    numbers.linear("conditioning/out")
    numbers.conv("in")
    runs = module.runs(side)
    for run, following in zip(runs, (*runs[1:], None)):
        for i in range(len(run.names)):
            index = (i,) if len(run.names) > 1 else ()
            if module.block == "ddpm" and run.shape.resample != "none":
                numbers.conv(f"{run.name}/conv", strided)
            else:
                numbers.block(run.name, index)
        if run.shape.resample == "down" and module.progressive_input != "none":
            path, skip = f"enc{run.level}_pyramid", module.progressive_input == "skip"
            numbers.conv(path if skip else f"{path}/conv", ".Conv_0" if skip else strided)
        if run.part == "dec" and (following is None or following.level != run.level):
            _level(module, numbers, run.level, strided)
    return numbers.entries


def _level(module: UNet, numbers: _Numbers, level: int, strided: str) -> None:
    """Adds what stands at the end of a decoder's level: pyramids, and the head at the last."""
    top = level == len(module.channel_mult) - 1
    if module.progressive_output == "residual" and not top:
        numbers.conv(f"dec{level}_pyramid/conv", strided)
    if module.progressive_output == "residual" and top:
        numbers.norm(f"dec{level}_pyramid/norm")
        numbers.conv(f"dec{level}_pyramid/conv")
    if module.progressive_output == "skip" or level == 0:
        numbers.norm(f"dec{level}_head/norm")
        numbers.conv(f"dec{level}_head/conv")
