"""Reading of a compiled program's text: its collectives, and what it moves through memory."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple


class Collective(NamedTuple):
    """Collectives of one kind in a program.

    Attributes:
        number: Number of operations.
        bytes: Bytes that they yield on each device.
    """

    number: int
    bytes: int


class Operation(NamedTuple):
    """Operation of a program's entry, as the device runs it.

    Attributes:
        name: Name of its result.
        shape: Shape of the result, of a tuple all shapes.
        kind: Kind, such as `fusion`.
        operands: Names of what it reads.
        line: Its whole line.
    """

    name: str
    shape: str
    kind: str
    operands: tuple[str, ...]
    line: str


COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"),
    *("collective-broadcast", "ragged-all-to-all"),
)

_MOVES_NOTHING = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all")
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?(\S+) = (\(.*?\)|\S+) ([a-z][\w-]*)\((.*)$")
_NAME = re.compile(r"%([\w.-]+)")
_ARRAY = re.compile(r"\b([a-z]+)(\d*)(?:e\d+m\d+\w*)?\[([\d,]*)\](\{[^{}]*\})?")
_ON_CHIP = re.compile(r"S\([1-9]\d*\)")
"""Memory space of an array that is on the chip itself, beside its units."""


def operations(text: str) -> Iterator[Operation]:
    """Yield the operations of the entry of a program."""
    _, _, entry = text.partition("\nENTRY ")
    for line in entry.partition("\n}")[0].splitlines()[1:]:
        if found := _OPERATION.match(line):
            name, shape, kind, rest = found.groups()
            arguments = rest.partition(")")[0]
            yield Operation(name, shape, kind, tuple(_NAME.findall(arguments)), line)


def collectives(text: str) -> dict[str, Collective]:
    """Return the collectives of a program by kind, those in loops and branches once each."""
    count: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for line in text.splitlines():
        if found := _OPERATION.match(line):
            _, shape, kind, _ = found.groups()
            kind = kind.removesuffix("-start")
            if kind in COLLECTIVES:
                count[kind] += 1
                size[kind] += bytes_of(shape)
    return {kind: Collective(count[kind], size[kind]) for kind in count}


def traffic(text: str) -> int:
    """Return the bytes that the operations of a program read from memory and write to it.

    Every operation reads its operands and writes its result once; what lies on the chip is left
    out, and so are loops' later rounds. It is what bounds a program that computes little, and less
    than XLA's own count, to which a gather reads its whole operand for every element.
    """
    shapes: dict[str, str] = {}
    total = 0
    for each in operations(text):
        shapes[each.name] = each.shape
        if each.kind in _MOVES_NOTHING:
            continue
        if not each.kind.endswith("-start"):
            total += bytes_of(each.shape, in_memory=True)
        if each.kind.startswith("slice"):
            # It reads what it yields, not all of its operand.
            total += bytes_of(each.shape) if each.kind != "slice-start" else 0
        elif not each.kind.endswith("-done"):
            total += sum(bytes_of(shapes.get(name, ""), in_memory=True) for name in each.operands)
    return total


def bytes_of(shape: str, *, in_memory: bool = False) -> int:
    """Return the bytes of an array or a tuple of them.

    Args:
        shape: Shape as a program's text has it.
        in_memory: Whether only arrays in the device's main memory count.
    """
    total = 0
    for _, bits, sides, layout in _ARRAY.findall(shape):
        if not (in_memory and _ON_CHIP.search(layout)):
            number = math.prod(int(side) for side in sides.split(",") if side)
            total += number * int(bits or 8) // 8
    return total
