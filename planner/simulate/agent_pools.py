"""Pools that calls of a simulated agent graph take from: slots, rates of a minute, limits on copies."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Units of a pool that a call takes when it starts, until it ends or for `for_s` seconds (a rate)."""

    pool: str
    amount: int = 1
    for_s: float | None = None


class Pools:
    """Free units per pool, and who waits for them; pools that nobody named have no bound."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._free = dict(sizes)
        self._waiting: dict[str, list[tuple[float, int, str, int]]] = {pool: [] for pool in sizes}
        self._count = 0

    def take(self, name: str, holds: Sequence[Hold], priority: float) -> bool:
        """Take all of `holds` or none; if none, the call `name` waits for the first that is short."""
        for hold in holds:
            if hold.pool in self._free and self._free[hold.pool] < hold.amount:
                self._count += 1
                entry = (priority, self._count, name, hold.amount)
                heapq.heappush(self._waiting[hold.pool], entry)
                return False
        for hold in holds:
            if hold.pool in self._free:
                self._free[hold.pool] -= hold.amount
        return True

    def give(self, hold: Hold) -> None:
        """Give units back."""
        if hold.pool in self._free:
            self._free[hold.pool] += hold.amount

    def next_in(self, pool: str) -> str | None:
        """Return who is served next from a pool and take it off the queue; None if nobody can be."""
        queue = self._waiting.get(pool)
        if not queue or self._free[pool] < queue[0][3]:
            return None
        return heapq.heappop(queue)[2]
