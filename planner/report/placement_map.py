"""The placement as a map: one line per node, one cell per device, equal nodes folded."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import groupby

from planner.plan.schema import Plan

_MAX_LINES = 40
_SEAT = re.compile(r"(?P<node>.*)/(?P<index>[0-9]{1,6})\Z")


def placement_lines(plan: Plan) -> list[str]:
    """Return one line per node or run of equally used nodes, e.g. ``node-0   A0 A0 A1 A1``.

    The letter is the pool's, the number the replica's; replicas of a pool count from 0.
    """
    letters = {pool.name: _letters(position) for position, pool in enumerate(plan.pools)}
    nodes: defaultdict[str, dict[int, str]] = defaultdict(dict)
    for seat in plan.placement:
        for device in seat.devices:
            match = _SEAT.match(device)
            if match is not None:
                cell = f"{letters.get(seat.pool, '?')}{seat.replica}"
                nodes[match["node"]][int(match["index"])] = cell
    lines = [f"{letter} = {name}" for name, letter in letters.items()]
    lines += _folded([(node, _cells(nodes[node])) for node in sorted(nodes, key=_natural)])
    return (
        lines
        if len(lines) <= _MAX_LINES
        else [*lines[:_MAX_LINES], f"... {len(lines) - _MAX_LINES} more nodes"]
    )


def _folded(rows: list[tuple[str, list[str]]]) -> list[str]:
    """Fold runs of nodes with the same pools on the same devices; their replicas differ in number alone."""
    lines: list[str] = []
    for _, run in groupby(rows, key=lambda row: _shape(row[1])):
        listed = list(run)
        (first, cells), (last, last_cells) = listed[0], listed[-1]
        if len(listed) <= 2:
            lines += [f"{node}   {' '.join(row)}" for node, row in listed]
        else:
            names = f"{first} .. {last} ({len(listed)} nodes)"
            lines.append(f"{names}   {' '.join(cells)} .. {' '.join(last_cells)}")
    return lines


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort numbers inside names by value: node-2 before node-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def _cells(cells: dict[int, str]) -> list[str]:
    return [cells.get(index, "--") for index in range(max(cells) + 1)]


def _shape(cells: list[str]) -> tuple[tuple[str, int], ...]:
    """Return the pools of the cells and where the replica changes."""
    starts = [0, *(i for i in range(1, len(cells)) if cells[i] != cells[i - 1])]
    return tuple((cells[start].rstrip("0123456789"), start) for start in starts)


def _letters(position: int) -> str:
    """Return A, B, ..., Z, AA, AB, ... for 0, 1, ..."""
    text = ""
    position += 1
    while position:
        position, rest = divmod(position - 1, 26)
        text = chr(ord("A") + rest) + text
    return text
