"""What the tests of meshes share: a step's loss and gradients against those of one device."""

import jax
import numpy as np

from genjax.core.tree import flatten
from genjax.parallel import Rules, batch_sharding, hlo, state_shardings, using
from genjax.parallel.chips import CHIPS
from genjax.parallel.interconnect import KINDS, fabric

RULES = Rules(replicate_below=0)


def on_one_device(loss, params, batch):
    """Returns (parameters, batch, (loss, gradients), FLOPs) of loss(params, batch)."""
    compiled = jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile()
    return params, batch, compiled(params, batch), compiled.cost_analysis()["flops"]


def collectives(text, mesh):
    """Returns (kind, mesh axes, shapes of its results, where it comes from) of every collective."""
    module, made = hlo.parse(text), fabric(CHIPS["v5e"], mesh)
    found = []
    for body in module.computations.values():
        for i in body:
            kind = i.opcode.removesuffix("-start")
            if kind in KINDS:
                axes = made.axes(i.groups(mesh.size))
                found.append((kind, axes, [shape for _, shape in i.arrays], i.op_name))
    return found


def assert_only_parameters_travel(text, params, mesh, also):
    """Asserts that a compiled step gathers parameters over fsdp, and no activations.

    A data axis sums gradients and losses alone; fsdp gathers parameters (of a layer, in parts where
    a tensor axis splits them); a context axis may move sequences. `also`: numbers of elements that
    may come together over the tensor axis.
    """
    found = collectives(text, mesh)
    kinds = {kind for kind, axes, *_ in found if "context" not in axes}
    if mesh.shape["fsdp"] == mesh.shape["tensor"] == 1:
        assert kinds <= {"all-reduce", "reduce-scatter"}, found
    whole = {n for p in jax.tree.leaves(params) for n in (p.size, int(np.prod(p.shape[1:])))}
    allowed = whole | {n // mesh.shape["tensor"] for n in whole}
    for kind, axes, shapes, where in found:
        if kind in ("all-gather", "all-to-all") and "context" not in axes:
            for shape in shapes:
                meant = also if "tensor" in axes else allowed
                assert int(np.prod(shape)) in meant, f"{where}: {kind} of {shape} over {axes}"


def assert_equal_and_split(
    problem, loss, initialise, mesh, *, least, tolerance=2e-5, share=1.5, zero=None, also=None
):
    """Asserts that the mesh gives the problem's loss and gradients, and splits the work.

    `least`: every gradient is larger somewhere, but those of paths that end with `zero`, which are
    0; `tolerance`: of a gradient's largest entry; `share`: FLOPs of a device over an even share;
    `also`: see `assert_only_parameters_travel`; None leaves that out.
    """
    params, batch, (want_loss, want), flops = problem
    shardings = state_shardings(jax.eval_shape(initialise), mesh, RULES)

    def step(params, batch):
        with using(mesh, RULES):
            return jax.value_and_grad(loss)(params, batch)

    args = jax.device_put(params, shardings), jax.device_put(batch, batch_sharding(mesh))
    compiled = jax.jit(step, out_shardings=(None, shardings)).lower(*args).compile()
    found_loss, found = compiled(*args)
    np.testing.assert_allclose(found_loss, want_loss, rtol=1e-6)
    for (path, a), b in zip(flatten(found).items(), jax.tree.leaves(want), strict=True):
        if zero is not None and path.endswith(zero):
            assert not np.any(a) and not np.any(b)
            continue
        scale = np.abs(b).max()
        assert scale > least, f"{path}: a gradient of nothing proves nothing"
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=path)
    if also is not None:
        assert_only_parameters_travel(compiled.as_text(), found, mesh, also)
    # The work is split too: had a constraint been lost, every device would do all of it.
    assert compiled.cost_analysis()["flops"] / flops < share / mesh.size
