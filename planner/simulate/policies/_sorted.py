"""A queue whose order is known when a request joins it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from planner.simulate.serving_request import Request


@dataclass(slots=True, kw_only=True)
class SortedQueue:
    """Requests by a key that does not change while they wait; equal keys in the order of joining."""

    key: Callable[[Request], tuple[float, ...]]
    _heap: list[tuple[tuple[float, ...], int, Request]] = field(
        default_factory=list[tuple[tuple[float, ...], int, Request]]
    )
    _serial: int = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._heap)

    def append(self, request: Request) -> None:
        """Let a request wait at its place."""
        self._serial += 1
        heappush(self._heap, (self.key(request), self._serial, request))

    def head(self) -> Request:
        """Return the request that is next."""
        return self._heap[0][2]

    def popleft(self) -> Request:
        """Take the request that is next."""
        return heappop(self._heap)[2]

    def served(self, request: Request, tokens: int) -> None:
        """Nothing depends on it."""

    def clear(self) -> list[Request]:
        """Give all waiting requests back in order."""
        found = [request for _, _, request in sorted(self._heap, key=lambda entry: entry[:2])]
        self._heap.clear()
        return found
