"""Scheduling policies: the order in which an engine takes waiting requests; files exposing ``POLICY``."""

from __future__ import annotations

from typing import Protocol

from planner.registry import Registry
from planner.simulate.serving_request import Request

__all__ = ["POLICIES", "Queue"]


class Queue(Protocol):
    """Requests that wait at a rank."""

    def __len__(self) -> int:
        """Return how many wait."""
        ...

    def append(self, request: Request) -> None:
        """Let a request wait."""
        ...

    def head(self) -> Request:
        """Return the request that is next, without taking it."""
        ...

    def popleft(self) -> Request:
        """Take the request that is next."""
        ...

    def served(self, request: Request, tokens: int) -> None:
        """Learn that `tokens` tokens of a request were worked on."""
        ...

    def clear(self) -> list[Request]:
        """Give all waiting requests back."""
        ...


class QueueMaker(Protocol):
    """A policy: makes empty queues."""

    def __call__(self) -> Queue:
        """Return an empty queue."""
        ...


POLICIES: Registry[QueueMaker] = Registry(
    what="scheduling policy", package="planner.simulate.policies", attribute="POLICY"
)
"""Policies by name."""
