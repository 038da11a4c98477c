"""Queues that serve whoever has been served least: requests grouped by who they belong to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from planner.simulate.serving_request import Request


@dataclass(slots=True, kw_only=True)
class ShareQueue:
    """Groups of requests, the least served group first, in order of joining within a group.

    `group` says to whom a request belongs. A group that comes back after a pause starts level with the
    least served one that waits, so that absence is not saved up; with `forget` false it keeps its count.
    """

    group: Callable[[Request], int]
    forget: bool
    _waiting: dict[int, deque[Request]] = field(default_factory=dict[int, deque[Request]])
    _service: dict[int, float] = field(default_factory=dict[int, float])
    _count: int = 0

    def __len__(self) -> int:
        """Return how many wait."""
        return self._count

    def append(self, request: Request) -> None:
        """Let a request wait with its group."""
        group = self.group(request)
        if group not in self._waiting:
            if self.forget and self._waiting:
                least = min(self._service[g] for g in self._waiting)
                self._service[group] = max(self._service.get(group, 0.0), least)
            self._service.setdefault(group, 0.0)
            self._waiting[group] = deque()
        if request.interruptions:
            self._waiting[group].appendleft(request)
        else:
            self._waiting[group].append(request)
        self._count += 1

    def _next(self) -> int:
        return min(self._waiting, key=lambda g: (self._service[g], self._waiting[g][0].ready_s))

    def head(self) -> Request:
        """Return the request that is next."""
        return self._waiting[self._next()][0]

    def popleft(self) -> Request:
        """Take the request that is next."""
        group = self._next()
        request = self._waiting[group].popleft()
        if not self._waiting[group]:
            del self._waiting[group]
        self._count -= 1
        return request

    def served(self, request: Request, tokens: int) -> None:
        """Count the service of the request's group."""
        group = self.group(request)
        self._service[group] = self._service.get(group, 0.0) + tokens

    def clear(self) -> list[Request]:
        """Give all waiting requests back."""
        found = [request for queue in self._waiting.values() for request in queue]
        self._waiting.clear()
        self._count = 0
        return found
