"""How long a compiled step takes on one device, by the compiler's own estimates.

The scheduled program is walked from its entry. A fusion takes its `estimated_cycles`; loops are
walked once and multiplied. A collective that starts and ends apart runs beside what lies between;
one after the other they share the interconnect; what is not done where it is awaited is waited
for. Pallas kernels, for which the compiler estimates nothing, take the larger of FLOPs over half
the peak and bytes over the memory's bandwidth.
"""

import dataclasses
import itertools
import math
import re

from genjax.parallel import hlo
from genjax.parallel.interconnect import KINDS, Fabric

_KERNELS = ("tpu_custom_call", "Mosaic")
_PALLAS_SHARE = 0.5  # of the peak that a kernel's products reach


@dataclasses.dataclass
class Cost:
    """Seconds and bytes of a piece of program on one device.

    `fusions` by where they come from; `kernels`: Pallas; `waiting`: for collectives; `collective`:
    (kind, mesh axes) -> [count, bytes sent, seconds, seconds of them waited for].
    """

    fusions: dict[str, float] = dataclasses.field(default_factory=dict)
    kernels: float = 0.0
    kernel_flops: float = 0.0
    collective: dict[tuple[str, str], list[float]] = dataclasses.field(default_factory=dict)

    @property
    def compute(self) -> float:
        return math.fsum(self.fusions.values())

    @property
    def waiting(self) -> float:
        return math.fsum(row[3] for row in self.collective.values())

    @property
    def seconds(self) -> float:
        return self.compute + self.kernels + self.waiting

    def add(self, other: "Cost", times: int = 1) -> None:
        for name, seconds in other.fusions.items():
            self.fusions[name] = self.fusions.get(name, 0.0) + times * seconds
        self.kernels += times * other.kernels
        self.kernel_flops += times * other.kernel_flops
        for key, row in other.collective.items():
            mine = self.collective.setdefault(key, [0.0] * 4)
            self.collective[key] = [a + times * b for a, b in zip(mine, row)]


def price(module: hlo.Module, fabric: Fabric) -> Cost:
    """Returns the cost of the module's entry; the chip's clock must be known."""
    return _Walk(module, fabric).body(module.entry)


def kernel_work(instruction: hlo.Instruction, module: hlo.Module) -> tuple[float, float]:
    """Returns (FLOPs, bytes) of a Pallas call: what its author declares, or by its shapes.

    Without a declaration it is taken for attention between q [..., l, d] and k [..., m, d], the
    first two operands that share d: 2 l m d a product, of which the forward pass has 2, the
    gradient of q 3, that of k and v 4, both in one kernel 5. Masks leave out nothing.
    """
    operands = [
        array
        for name in instruction.operand_names
        if name in module.by_name
        for array in module.by_name[name].arrays
    ]
    moved = sum(hlo.size(*array) for array in (*operands, *instruction.arrays))
    declared = re.search(r'"flops":"?(\d+)', instruction.rest)
    if declared and int(declared[1]):
        return float(declared[1]), moved
    large = [shape for dtype, shape in operands if len(shape) >= 3 and dtype in ("bf16", "f32")]
    pairs = [(a, b) for a, b in itertools.pairwise(large) if a[-1] == b[-1] and a[-1] > 1]
    if not pairs:
        return 0.0, moved
    q, k = pairs[0]
    name = f"{instruction.name} {instruction.rest}"
    products = 2
    if re.search(r"dkv|dq|bwd", name):
        products = 4 if "dkv" in name else 3
        # One kernel that gives all three gradients.
        products = 5 if len([s for _, s in instruction.arrays if len(s) >= 3]) >= 3 else products
    return 2.0 * products * math.prod(q) * k[-2], moved


class _Walk:
    def __init__(self, module: hlo.Module, fabric: Fabric):
        self._module, self._fabric, self._chip = module, fabric, fabric.chip
        assert fabric.chip.clock is not None
        self._clock, self._known = fabric.chip.clock, {}
        self._carried: set[str] = set()  # chains of collectives that fusions carry on

    def body(self, name: str) -> Cost:
        if name not in self._known:
            self._known[name] = self._run(name)
        return self._known[name]

    def _run(self, name: str) -> Cost:
        cost, now, free = Cost(), 0.0, 0.0  # free: when the interconnect is
        running: dict[str, tuple[float, tuple[str, str]]] = {}  # started -> its end, and what it is
        for i in self._module.computations[name]:
            inner = self._inner(i)
            if inner is not None:
                cost.add(*inner)
                now += inner[0].seconds * inner[1]
                continue
            work = self._collective(i)
            if work is not None and work[1] not in running:
                key, chain, sent, seconds = work
                begin = max(now, free)
                free = begin + seconds
                row = cost.collective.setdefault(key, [0.0] * 4)
                row[0], row[1], row[2] = row[0] + 1, row[1] + sent, row[2] + seconds
                if chain:
                    running[chain] = free, key
                else:
                    row[3] += free - now
                    now = free
            for chain in self._awaited(i):
                end, key = running.pop(chain, (now, ("", "")))
                if end > now:
                    cost.collective[key][3] += end - now
                    now = end
            before = cost.compute + cost.kernels
            self._charge(cost, i)
            now += cost.compute + cost.kernels - before
        for end, key in running.values():  # what ends in the next turn of a loop
            if end > now:
                cost.collective[key][3] += end - now
                now = end
        return cost

    def _inner(self, i: hlo.Instruction) -> tuple[Cost, int] | None:
        if i.opcode == "while":
            body = re.search(r"body=%?([\w.\-]+)", i.rest)
            return (self.body(body[1]), self._module.trips(i)) if body else None
        if i.opcode == "conditional" and i.branches:
            return max((self.body(b) for b in i.branches), key=lambda c: c.seconds), 1
        if i.opcode == "call" and i.called:
            return self.body(i.called), 1
        return None

    def _collective(self, i: hlo.Instruction) -> tuple[tuple[str, str], str, float, float] | None:
        """Returns ((kind, mesh axes), chain, bytes sent, seconds) of a collective, or None.

        The chain names what runs beside other work until it is awaited: a `-start`, or the fusion
        that begins a collective which the fusions after it carry on ("" for all others).
        """
        source, chain = i, i.name if i.opcode.endswith("-start") else ""
        scatter = False
        if i.opcode in ("fusion", "async-start") and i.called:
            inside = list(self._module.within(i.called))
            found = [x for x in inside if x.opcode.removesuffix("-start") in KINDS]
            if not found:
                return None
            source = found[0]
            if i.opcode == "fusion":
                begins = any(x.target == "AsyncCollectiveStart" for x in inside)
                chain = source.chain if begins or source.chain in self._carried else ""
                self._carried |= {source.chain} if begins else set()
                scatter = any(x.opcode == "dynamic-slice" for x in inside) and not chain
        kind = source.opcode.removesuffix("-start")
        if kind not in KINDS:
            return None
        groups = source.groups(len(self._fabric.slices))
        results = source.arrays
        if source.opcode.endswith("-start") and len(results) > 1:  # (operands, results, contexts)
            results = results[1:2] if kind != "all-reduce" else results
        size = sum(hlo.size(*array) for array in results)
        if kind == "reduce-scatter":
            size *= groups.shape[1]
        elif kind == "all-reduce" and scatter:  # the sum, of which each device keeps its part
            kind = "reduce-scatter"
        seconds = self._fabric.seconds(kind, size, groups)
        sent = self._fabric.sent(kind, size, groups.shape[1])
        return (kind, self._fabric.axes(groups)), chain, sent, seconds

    def _awaited(self, i: hlo.Instruction) -> list[str]:
        """Returns the chains that end with this instruction."""
        if i.opcode.endswith("-done"):
            return i.operand_names
        if i.opcode == "fusion" and i.called:
            inside = list(self._module.within(i.called))
            if any(x.target == "AsyncCollectiveDone" for x in inside):
                return [x.chain for x in inside if x.opcode.removesuffix("-start") in KINDS]
        return []

    def _charge(self, cost: Cost, i: hlo.Instruction) -> None:
        if i.opcode == "custom-call" and i.target.startswith(_KERNELS) and not i.cycles:
            flops, moved = kernel_work(i, self._module)
            cost.kernels += max(
                flops / (_PALLAS_SHARE * self._chip.flops), moved / self._chip.bandwidth
            )
            cost.kernel_flops += flops
        elif i.cycles:
            name = i.op_name or i.opcode
            cost.fusions[name] = cost.fusions.get(name, 0.0) + i.cycles / self._clock
