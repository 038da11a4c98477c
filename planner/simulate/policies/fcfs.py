"""First come, first served; an interrupted request keeps its place by its arrival. vLLM's default."""

from __future__ import annotations

from planner.simulate.policies._sorted import SortedQueue
from planner.simulate.serving_request import Request


def _key(request: Request) -> tuple[float, ...]:
    return (request.ready_s,)


def POLICY() -> SortedQueue:  # noqa: N802 - the name that the registry looks for
    """Return an empty queue in order of arrival."""
    return SortedQueue(key=_key)
