"""Reading the text of an optimised XLA program: computations, instructions, loops, shapes.

Only what a cost model needs is understood; the rest of a line is kept as text.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from functools import cached_property

import numpy as np

_BITS = {"pred": 8, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{\s*$")
_LINE = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"^([\w\-]+)\(")
_CALLS = re.compile(r"(?:calls|to_apply|body|called_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CYCLES = re.compile(r'"estimated_cycles":"(-?\d+)"')
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")
_AXIS = re.compile(r"'(\w+)'(?:=(\d+))?(?::\((\d+)\)(\d+))?")
_CHAIN = re.compile(r"(?:chain_id|async_collective_name)=\"?([\w.\-]+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{.*?\}|)\}")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: `type` (its result), `opcode`, the `operands` between its parentheses and
    the `rest` of the line (attributes, metadata, the backend's notes)."""

    name: str
    type: str
    opcode: str
    operands: str
    rest: str

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """The arrays of its result: (dtype, shape)."""
        return arrays(self.type)

    @property
    def cycles(self) -> int:
        """What the compiler estimates for it; 0 where it says nothing."""
        found = _CYCLES.search(self.rest)
        return max(int(found[1]), 0) if found else 0

    @property
    def called(self) -> str | None:
        found = _CALLS.search(self.rest)
        return found[1] if found else None

    @property
    def branches(self) -> list[str]:
        names = []
        for many, one in _BRANCHES.findall(self.rest):
            names += [n.strip().lstrip("%") for n in many.split(",")] if many else [one]
        return names

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from; "" where the compiler made it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """The target of a custom call."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def chain(self) -> str:
        """What the parts of one asynchronous collective have in common."""
        found = _CHAIN.search(self.rest)
        return found[1] if found else ""

    @property
    def operand_names(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.operands)

    def groups(self, devices: int) -> np.ndarray:
        """Returns the groups of a collective, [groups, size]; pairs for a permutation."""
        iota = _IOTA.search(self.rest)
        if iota:
            shape, dims = _ints(iota[1]), _ints(iota[2])
            order = np.arange(math.prod(dims)).reshape(dims)
            return (order.transpose(_ints(iota[3])) if iota[3] else order).reshape(shape)
        named = _AXES.search(self.rest)
        if named:
            return _named_groups(named[1], named[2])
        listed = _LISTED.search(self.rest)
        if not listed or not listed[1]:
            return np.arange(devices)[None]
        return np.array([_ints(group) for group in re.findall(r"\{([\d,]*)\}", listed[1])])


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: computation name -> its instructions in their order (scheduled, if it is)."""

    computations: dict[str, list[Instruction]]
    entry: str

    @cached_property
    def by_name(self) -> dict[str, Instruction]:
        return {i.name: i for body in self.computations.values() for i in body}

    def trips(self, loop: Instruction) -> int:
        """Returns how often the body of a `while` runs.

        The compiler's count, or the bound that the condition compares its counter with, where
        counters begin at 0 and step by 1, as those of scans do; 1 where neither is found.
        """
        found = _TRIPS.search(loop.rest)
        if found:
            return int(found[1])
        condition = re.search(r"condition=%?([\w.\-]+)", loop.rest)
        constants = [
            int(i.operands)
            for i in self.within(condition[1] if condition else "")
            if i.opcode == "constant" and re.fullmatch(r"\d+", i.operands) and "[]" in i.type
        ]
        return max(constants, default=1)

    def within(self, name: str) -> Iterator[Instruction]:
        """Yields the instructions of a computation and of the fusions in it."""
        for instruction in self.computations.get(name, ()):
            yield instruction
            if instruction.opcode == "fusion" and instruction.called:
                yield from self.within(instruction.called)


def parse(text: str) -> Module:
    """Returns the module; raises `ValueError` where the text is no HLO module."""
    computations: dict[str, list[Instruction]] = {}
    entry, lines = "", None
    for line in text.splitlines():
        if lines is None:
            header = _HEADER.match(line)
            if header:
                name, lines = header[2], []
                entry = name if header[1] else entry
        elif line.rstrip() == "}":
            found = (_LINE.match(line) for line in lines)
            read = (_instruction(match[1], match[2]) for match in found if match)
            computations[name], lines = [i for i in read if i is not None], None
        elif line.startswith(" "):
            lines.append(line)
        elif lines:  # attributes may hold line breaks
            lines[-1] += line
    if not entry:
        raise ValueError("this text holds no HLO module with an ENTRY computation")
    return Module(computations, entry)


def _instruction(name: str, text: str) -> Instruction | None:
    end = _closing(text, 0) + 1 if text.startswith("(") else text.find(" ")
    opcode = _OPCODE.match(text[end:].lstrip())
    if end < 1 or opcode is None:
        return None
    start = text.index(opcode[1] + "(", end) + len(opcode[1])
    close = _closing(text, start)
    return Instruction(name, text[:end], opcode[1], text[start + 1 : close], text[close + 1 :])


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` closes (the end, if nowhere)."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, start):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text) - 1


def arrays(type: str) -> list[tuple[str, tuple[int, ...]]]:
    """Returns (dtype, shape) of every array in the text of a type."""
    return [(dtype, _ints(shape)) for dtype, shape in _ARRAY.findall(type)]


def size(dtype: str, shape: tuple[int, ...]) -> float:
    """Returns the bytes of an array without padding."""
    if dtype in _BITS:
        bits = _BITS[dtype]
    else:
        width = re.search(r"\d+", dtype)
        bits = int(width[0]) if width else 0
    return math.prod(shape) * bits / 8


def _named_groups(mesh: str, over: str) -> np.ndarray:
    """Returns the groups over some axes of a mesh such as 'a'=2,'b'=8, or over parts of them.

    'b':(2)4 is the factor of 4 in b's 8 = 2 x 4 x 1, the first the slowest.
    """
    sizes = {name: int(n) for name, n, _, _ in _AXIS.findall(mesh)}
    parts = {name: [n] for name, n in sizes.items()}
    chosen = []
    for name, _, before, n in _AXIS.findall(over):
        if n:
            pre, own = int(before), int(n)
            parts[name] = [pre, own, sizes[name] // (pre * own)]
        chosen.append((name, 1 if n else 0))
    order = [(name, i) for name, factors in parts.items() for i in range(len(factors))]
    grid = np.arange(math.prod(sizes.values())).reshape([parts[n][i] for n, i in order])
    kept = [k for k, key in enumerate(order) if key not in chosen]
    size = math.prod(parts[n][i] for n, i in chosen)
    return grid.transpose([*kept, *(order.index(key) for key in chosen)]).reshape(-1, size)


def _ints(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in text.split(",") if n.strip())
