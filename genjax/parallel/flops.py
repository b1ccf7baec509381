"""Operations of a traced program, counted from its products and convolutions."""

import math
from typing import Any


def count(jaxpr: Any) -> float:
    """Returns 2 x multiply-accumulates of a (closed) jaxpr on all devices together.

    Scans count their length, branches their dearest, Pallas kernels their grid, and what is
    computed again in a backward pass counts again. A `while` without a known length counts once.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * _product(shape, contracted)
        elif name == "conv_general_dilated":
            total += _convolution(eqn)
        elif name == "cond":
            total += max(count(branch) for branch in params["branches"])
        else:
            inner = sum(count(x) for x in _inside(params))
            total += inner * _times(name, params)
    return total


def _times(name: str, params: dict) -> float:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        sizes = dict(params["mesh"].shape)
        return math.prod(sizes.values())
    if name == "pallas_call":
        return math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    return 1


def _inside(params: dict):
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(getattr(x, "jaxpr", x), "eqns"):
                yield x


def _product(shape, dims) -> int:
    return math.prod(shape[d] for d in dims)


def _convolution(eqn: Any) -> float:
    """Every output needs the kernel's window times its input channels.

    Zeros that dilation puts between inputs (the gradient of a strided convolution) cost nothing.
    """
    numbers, out = eqn.params["dimension_numbers"], eqn.outvars[0].aval.shape
    kernel = eqn.invars[1].aval.shape
    window = math.prod(kernel[d] for d in numbers.rhs_spec[1:])
    return 2.0 * math.prod(out) * window / math.prod(eqn.params["lhs_dilation"])
