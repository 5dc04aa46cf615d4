"""The communication of a compiled program, read from its HLO text."""

import math
import re
from typing import NamedTuple

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast"
# `%name = result kind(operands), …`; the `-done` half of an asynchronous pair moves nothing more.
_INSTRUCTION = re.compile(rf"= (?P<result>\S.*?) (?P<kind>{_KINDS})(?P<start>-start)?\((?P<rest>.*)$", re.MULTILINE)
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+\d+\w*)\[(?P<shape>[\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{(?P<first>[\d,]*)\}|\[\d+,(?P<size>\d+)\])")


class Collective(NamedTuple):
    """One communication between devices."""

    kind: str
    arrays: int  # that travel together
    bytes: int  # of these arrays when whole: what a gather gives, what a reduction takes


class Traffic(NamedTuple):
    """All collectives of one kind."""

    count: int
    arrays: int
    bytes: int


def collectives(hlo: str) -> list[Collective]:
    """Every collective of a compiled program, in the order of its text; one in a loop counts once."""
    return [_collective(match) for match in _INSTRUCTION.finditer(hlo)]


def traffic_by_kind(found: list[Collective]) -> dict[str, Traffic]:
    """Sums by kind, for the kinds that occur."""
    kinds = sorted({collective.kind for collective in found})
    chosen = {kind: [collective for collective in found if collective.kind == kind] for kind in kinds}
    return {
        kind: Traffic(len(some), sum(each.arrays for each in some), sum(each.bytes for each in some))
        for kind, some in chosen.items()
    }


def of_arrays(found: list[Collective], array_bytes: int) -> list[Collective]:
    """Those that carry arrays of one size and nothing else."""
    return [collective for collective in found if collective.bytes == collective.arrays * array_bytes]


def _collective(match: re.Match[str]) -> Collective:
    kind = match["kind"]
    sizes = [_array_bytes(array) for array in _ARRAY.finditer(match["result"])]
    if match["start"] and kind != "all-reduce":
        # The result of a start is (operands, results, and sometimes flags of four bytes).
        flags = 2 if kind == "collective-permute" and len(sizes) % 2 == 0 and len(sizes) > 2 else 0
        arrays = len(sizes) - flags
        sizes = sizes[arrays // 2 : arrays]
    whole = _group_size(match["rest"]) if kind == "reduce-scatter" else 1
    return Collective(kind, len(sizes), whole * sum(sizes))


def _array_bytes(array: re.Match[str]) -> int:
    bits = re.search(r"\d+", array["type"])
    shape = [int(size) for size in array["shape"].split(",") if size]
    return math.prod(shape) * (int(bits[0]) if bits else 8) // 8


def _group_size(attributes: str) -> int:
    """Devices that take part together; the first group stands for all."""
    groups = _GROUPS.search(attributes)
    if groups is None:
        return 1
    return int(groups["size"]) if groups["size"] else len(groups["first"].split(","))
