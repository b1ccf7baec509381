"""The walk over scheduled HLO, on programs small enough to be added up by hand."""

import types

import numpy as np
import pytest

from genjax.parallel import hlo, timeline
from genjax.parallel.chips import CHIPS
from genjax.parallel.interconnect import HOP, Fabric

V5E = CHIPS["v5e"]
CYCLES = 'backend_config={"flag_configs":[],"estimated_cycles":"%d"}'
TEXT = f"""HloModule jit_step, is_scheduled=true

%inner (p.1: bf16[8,8]) -> bf16[8,8] {{
  %p.1 = bf16[8,8]{{1,0:T(8,128)(2,1)}} parameter(0)
  ROOT %dot.1 = bf16[8,8]{{1,0}} dot(%p.1, %p.1), lhs_contracting_dims={{1}}
}}

%cond (t.1: (s32[], bf16[8,8])) -> pred[] {{
  %t.1 = (s32[], /*index=1*/bf16[8,8]{{1,0}}) parameter(0)
  %i.1 = s32[] get-tuple-element(%t.1), index=0
  %end.1 = s32[]{{:T(128)}} constant(28)
  ROOT %less.1 = pred[] compare(%i.1, %end.1), direction=LT
}}

%body (t.2: (s32[], bf16[8,8])) -> (s32[], bf16[8,8]) {{
  %t.2 = (s32[], bf16[8,8]{{1,0}}) parameter(0)
  %x.2 = bf16[8,8]{{1,0}} get-tuple-element(%t.2), index=1
  %ag.2 = (bf16[4194304]{{0}}, bf16[16777216]{{0}}) all-gather-start(%x.2), channel_id=1, \
replica_groups=[2,4]<=[8], dimensions={{0}}, use_global_device_ids=true
  %fusion.2 = bf16[8,8]{{1,0}} fusion(%x.2), kind=kOutput, calls=%inner, \
metadata={{op_name="jit(step)/mlp/dot"}}, {CYCLES % 1500}
  %done.2 = bf16[16777216]{{0}} all-gather-done(%ag.2)
  ROOT %out.2 = (s32[], bf16[8,8]{{1,0}}) tuple(%x.2, %fusion.2)
}}

ENTRY %main.9 (a: bf16[8,8]) -> bf16[8,8] {{
  %a = bf16[8,8]{{1,0:T(8,128)(2,1)}} parameter(0), metadata={{op_name="state"}}
  %fusion.1 = bf16[8,8]{{1,0}} fusion(%a), kind=kLoop, calls=%inner, {CYCLES % 3000}
  %ar.1 = f32[1000000]{{0}} all-reduce(%fusion.1), \
replica_groups={{{{0,4}},{{1,5}},{{2,6}},{{3,7}}}}
  %while.1 = (s32[], bf16[8,8]{{1,0}}) while(%ar.1), condition=%cond, body=%body
  ROOT %result = bf16[8,8]{{1,0}} get-tuple-element(%while.1), index=1
}}
"""


def fabric(bounds=(4, 2, 1), mesh=(("data", 2), ("fsdp", 4)), chip=V5E, slices=1):
    n = int(np.prod(bounds))
    x, y, z = np.unravel_index(np.arange(n), bounds, order="F")
    coords = np.tile(np.stack([x, y, z], axis=1), (slices, 1))
    return Fabric(chip, coords, np.repeat(np.arange(slices), n), bounds, mesh)


def test_a_module_is_read():
    module = hlo.parse(TEXT)
    assert module.entry == "main.9" and set(module.computations) == {
        "inner", "cond", "body", "main.9",
    }  # fmt: skip
    loop = module.by_name["while.1"]
    assert module.trips(loop) == 28
    assert module.by_name["fusion.2"].cycles == 1500
    assert module.by_name["fusion.2"].op_name == "jit(step)/mlp/dot"
    assert module.by_name["t.1"].arrays == [("s32", ()), ("bf16", (8, 8))]
    with pytest.raises(ValueError, match="no HLO module"):
        hlo.parse("nothing")


def test_the_compilers_own_trip_count_goes_first():
    note = 'condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    module = hlo.parse(TEXT.replace("condition=%cond, body=%body", note))
    assert module.trips(module.by_name["while.1"]) == 7


def test_groups_in_all_spellings():
    def groups(text):
        return hlo.Instruction("x", "f32[]", "all-gather", "", text).groups(8).tolist()

    assert groups("replica_groups={{0,1},{2,3}}") == [[0, 1], [2, 3]]
    assert groups("replica_groups=[2,4]<=[8]") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups("replica_groups=[4,2]<=[2,4]T(1,0)") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert groups("source_target_pairs={{0,1},{1,0}}") == [[0, 1], [1, 0]]
    named = "replica_groups=mesh['a'=2,'b'=4] "
    assert groups(named + "{'b'}, dimensions={0}") == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert groups(named + "{'a'}") == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert groups(named + "{'b':(2)2}") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert groups(named + "{'a','b':(1)2}") == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert groups("replica_groups={}") == [list(range(8))]


def test_the_step_is_added_up():
    """28 turns of a 1 us fusion beside a gather of 32 MiB; before it 2 us and an all-reduce."""
    cost = timeline.price(hlo.parse(TEXT), fabric())
    gather = 2 * 16777216 * 3 / 4 / V5E.link + 3 * HOP  # a line of 4: one link
    reduce = 2 * (4e6 / 2 / V5E.link + HOP)
    assert cost.compute == pytest.approx(2e-6 + 28e-6)
    rows = cost.collective
    assert set(rows) == {("all-gather", "fsdp"), ("all-reduce", "data")}
    assert rows["all-gather", "fsdp"] == pytest.approx(
        [28, 28 * 2 * 16777216 * 3 / 4, 28 * gather, 28 * (gather - 1e-6)]
    )
    assert rows["all-reduce", "data"] == pytest.approx([1, 4e6, reduce, reduce])
    assert cost.seconds == pytest.approx(2e-6 + reduce + 28 * gather)
    assert cost.fusions["jit(step)/mlp/dot"] == pytest.approx(28e-6)


def test_what_compute_hides_is_not_waited_for():
    text = TEXT.replace('"estimated_cycles":"1500"', '"estimated_cycles":"1500000"')
    cost = timeline.price(hlo.parse(text), fabric())
    assert cost.collective["all-gather", "fsdp"][3] == 0
    assert cost.compute == pytest.approx(28e-3 + 2e-6)


def test_collectives_carried_by_fusions():
    """A gather begun in one fusion and ended in another runs beside what lies between."""
    gather = (
        "  %%ag.%d = bf16[16777216]{0} all-gather(%%p), channel_id=7, replica_groups=[2,4]<=[8], "
        'frontend_attributes={chain_id="5"}'
    )
    lines = []
    for n, call in enumerate(("AsyncCollectiveStart", "", "AsyncCollectiveDone")):
        lines += [f"%c.{n} (p: bf16[8]) -> bf16[8] {{", gather % n]
        if call:
            lines.append(f'  %x.{n} = bf16[8] custom-call(%ag.{n}), custom_call_target="{call}"')
        lines.append("}")
    lines += [
        "ENTRY %m (p: bf16[8]) -> bf16[8] {",
        "  %f.0 = bf16[8] fusion(%p), kind=kCustom, calls=%c.0",
        f"  %f.1 = bf16[8] fusion(%f.0), kind=kCustom, calls=%c.1, {CYCLES % 150000}",
        "  %f.2 = bf16[8] fusion(%f.1), kind=kCustom, calls=%c.2",
        "}",
    ]
    cost = timeline.price(hlo.parse("\n".join(lines)), fabric())
    gather_time = 2 * 16777216 * 3 / 4 / V5E.link + 3 * HOP
    assert cost.compute == pytest.approx(1e-4)
    row = cost.collective["all-gather", "fsdp"]
    assert row[0] == 1 and row[2:] == pytest.approx([gather_time, gather_time - 1e-4])


def test_a_fused_sum_of_parts_is_a_reduce_scatter():
    lines = [
        "%c (p: f32[1000]) -> f32[250] {",
        "  %ar = f32[1000]{0} all-reduce(%p), replica_groups=[2,4]<=[8]",
        "  ROOT %part = f32[250]{0} dynamic-slice(%ar, %i), dynamic_slice_sizes={250}",
        "}",
        "ENTRY %m (p: f32[1000]) -> f32[250] {",
        "  %f = f32[250] fusion(%p), kind=kCustom, calls=%c",
        "}",
    ]
    cost = timeline.price(hlo.parse("\n".join(lines)), fabric())
    assert set(cost.collective) == {("reduce-scatter", "fsdp")}
    assert cost.collective["reduce-scatter", "fsdp"][1] == 3000


def test_branches_cost_their_dearest():
    lines = [
        "%a.1 (p: f32[]) -> f32[] {",
        f"  %f.1 = f32[] fusion(%p), calls=%z, {CYCLES % 10}",
        "}",
        "%b.1 (p: f32[]) -> f32[] {",
        f"  %f.2 = f32[] fusion(%p), calls=%z, {CYCLES % 30}",
        "}",
        "ENTRY %m (p: f32[]) -> f32[] {",
        "  %c = f32[] conditional(%p), branch_computations={%a.1, %b.1}",
        "}",
    ]
    cost = timeline.price(hlo.parse("\n".join(lines)), fabric())
    assert cost.compute == pytest.approx(30 / 1.5e9)


def test_kernels_are_priced_by_their_shapes():
    q, out = "bf16[2,16,1024,128]", "bf16[2,16,1024,128]"
    text = f"""ENTRY %m (q: {q}) -> {out} {{
  %q = {q}{{3,2,1,0}} parameter(0)
  %k = {q}{{3,2,1,0}} parameter(1)
  %v = {q}{{3,2,1,0}} parameter(2)
  ROOT %o = {out}{{3,2,1,0}} custom-call(%q, %k, %v), custom_call_target="tpu_custom_call", \
frontend_attributes={{kernel_metadata={{
"block_q": 512
}}}}, metadata={{op_name="attention"}}
}}"""
    module = hlo.parse(text)
    work = 2 * 2 * 2 * 16 * 1024 * 1024 * 128
    moved = 4 * 2 * 2 * 16 * 1024 * 128
    assert timeline.kernel_work(module.by_name["o"], module) == (work, moved)
    assert module.by_name["o"].op_name == "attention"  # behind attributes with line breaks
    cost = timeline.price(module, fabric())
    assert cost.kernels == pytest.approx(max(work / (0.5 * V5E.flops), moved / V5E.bandwidth))
    assert cost.compute == 0


def test_axes_are_those_that_a_group_varies_along():
    f = fabric(mesh=(("data", 2), ("fsdp", 2), ("tensor", 2)))
    assert f.axes(np.array([[0, 1], [2, 3]])) == "tensor"
    assert f.axes(np.array([[0, 1, 2, 3]])) == "fsdp+tensor"
    assert f.axes(np.array([[0, 4]])) == "data"


def test_rings_and_lines():
    """v5e closes a side of 16; v5p closes the sides of whole cubes."""
    assert fabric((4, 4, 1)).rings == (False, False, False)
    assert fabric((16, 16, 1)).rings == (True, True, False)
    assert fabric((8, 4, 4), chip=CHIPS["v5p"]).rings == (True, True, True)
    assert fabric((4, 4, 2), chip=CHIPS["v5p"]).rings == (False, False, False)


def test_all_gathers_use_every_link_of_their_dimensions():
    whole = np.arange(16)[None]
    line = np.arange(4)[None]
    f = fabric((4, 4, 1), (("fsdp", 16),))
    assert f.seconds("all-gather", 16e6, whole) == pytest.approx(15e6 / (2 * V5E.link) + 6 * HOP)
    assert f.seconds("all-gather", 16e6, line) == pytest.approx(12e6 / V5E.link + 3 * HOP)
    assert f.seconds("all-reduce", 16e6, whole) == 2 * f.seconds("reduce-scatter", 16e6, whole)
    assert f.seconds("all-gather", 16e6, np.array([[3]])) == 0


def test_permutations_share_links():
    """A shift by one loads each link once, also where the last goes back all the way."""
    f = fabric((4, 1, 1), (("fsdp", 4),))
    shift = np.array([[0, 1], [1, 2], [2, 3], [3, 0]])
    assert f.seconds("collective-permute", 1e6, shift) == pytest.approx(1e6 / V5E.link + 3 * HOP)
    far = np.array([[0, 2], [1, 3]])  # both cross the middle
    assert f.seconds("collective-permute", 1e6, far) == pytest.approx(2e6 / V5E.link + 2 * HOP)


def test_slices_talk_over_their_chips_nics():
    f = fabric((2, 2, 1), (("data", 2), ("fsdp", 4)), slices=2)
    across = np.array([[0, 4], [1, 5], [2, 6], [3, 7]])
    assert f.seconds("all-reduce", 1e6, across) == pytest.approx(2 * 1e6 / 2 / V5E.dcn)
    whole = np.arange(8)[None]
    inside = 2 * (1e6 * 3 / 4 / (2 * V5E.link) + 2 * HOP)
    assert f.seconds("all-reduce", 1e6, whole) == pytest.approx(1e6 / (4 * V5E.dcn) + inside)


def test_the_fabric_of_a_mesh():
    from genjax.parallel.interconnect import fabric as of_mesh

    devices = np.array(
        [types.SimpleNamespace(coords=(x, y, 0), id=0) for y in (2, 3) for x in (0, 1)]
    )
    mesh = types.SimpleNamespace(devices=devices.reshape(2, 2), shape={"data": 2, "fsdp": 2})
    f = of_mesh(V5E, mesh)
    assert f.bounds == (2, 2, 1) and f.coords.tolist()[0] == [0, 0, 0]
