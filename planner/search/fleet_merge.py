"""Joins equal queues: of the many ways to cut the same replicas into queues, the one with the fewest.

One router over more replicas of a shape carries no less, so the joined queues replace the others at the
same cost. Only a loss may weigh more in a larger queue, which is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from planner.search.fleet_columns import Column
from planner.search.fleet_master import Demand

Counts = Sequence[tuple[Column, int]]
Key = tuple[str, int, int, int, bool]


def joined(counts: Counts, known: Iterable[Column], demand: Demand) -> tuple[tuple[Column, int], ...]:
    """Return the replicas of a half in as few queues of each shape as the known columns allow."""
    sizes: dict[Key, dict[int, Column]] = {}
    for column in known:
        sizes.setdefault(_key(column), {})[column.replicas] = column
    replicas: dict[Key, int] = {}
    for column, count in counts:
        replicas[_key(column)] = replicas.get(_key(column), 0) + column.replicas * count
    found: list[tuple[Column, int]] = []
    for key, wanted in replicas.items():
        left = wanted
        for size, column in sorted(sizes[key].items(), reverse=True):
            if left >= size:
                found.append((column, left // size))
                left %= size
        if left:
            return tuple(counts)
    return tuple(found) if _carried(found, demand) >= _carried(counts, demand) else tuple(counts)


def _key(column: Column) -> Key:
    return (column.role, column.group, column.offer, column.split, column.crosses)


def _carried(counts: Counts, demand: Demand) -> float:
    """Return what a half carries after the losses that it must survive."""
    whole = sum(column.capacity_rps * count for column, count in counts)
    tolerance = demand.model.tolerance
    if tolerance is None:
        return whole
    worst = max((column.loss_rps for column, _ in counts), default=0.0)
    return whole - tolerance.num_lost * tolerance.most_per_domain * worst
