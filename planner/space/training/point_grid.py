"""Points kept in parts, each with columns of one value that take no room, and read a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from planner.space.training.plans import IntArray, PlanArrays, concatenate

_BATCH = 200_000


class PointGrid:
    """Points of many shapes, numbered part after part."""

    def __init__(self, parts: Sequence[PlanArrays]) -> None:
        self._parts = tuple(part for part in parts if len(part))
        self._starts: IntArray = np.cumsum([0, *(len(part) for part in self._parts)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def micro_batches(self) -> IntArray:
        """Return the micro-batch sizes that any point has, ascending."""
        return np.unique(np.concatenate([np.unique(part.micro_batch) for part in self._parts]))

    def batches(self) -> Iterator[PlanArrays]:
        """Yield all points in order, some whole parts at a time."""
        held: list[PlanArrays] = []
        for part in self._parts:
            held.append(part)
            if sum(map(len, held)) >= _BATCH:
                yield concatenate(held)
                held = []
        if held:
            yield concatenate(held)

    def take(self, index: IntArray) -> PlanArrays:
        """Return the points of these numbers, in their order; there is at least one."""
        order = np.argsort(index, kind="stable")
        part_of = np.searchsorted(self._starts, index[order], side="right") - 1
        found: list[PlanArrays] = []
        for number, part in enumerate(self._parts):
            here = order[part_of == number]
            if len(here):
                found.append(part.take(index[here] - self._starts[number]))
        back = np.empty(len(index), dtype=np.int64)
        back[order] = np.arange(len(index))
        return concatenate(found).take(back)
