"""Higher priority first, in order of arrival among equals (``--scheduling-policy priority`` of vLLM)."""

from __future__ import annotations

from planner.simulate.policies._sorted import SortedQueue
from planner.simulate.serving_request import Request


def _key(request: Request) -> tuple[float, ...]:
    return (-request.priority, request.ready_s)


def POLICY() -> SortedQueue:  # noqa: N802 - the name that the registry looks for
    """Return an empty queue by priority."""
    return SortedQueue(key=_key)
