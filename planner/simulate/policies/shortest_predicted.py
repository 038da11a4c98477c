"""The request with the least predicted work first: prompt tokens to compute and predicted decode steps.

A decode step is counted as one token of work. Source of the idea: shortest-job-first with predicted output
lengths, e.g. Qiu et al., "Efficient interactive LLM serving with proxy model-based sequence length
prediction" (2024).
"""

from __future__ import annotations

from planner.simulate.policies._sorted import SortedQueue
from planner.simulate.serving_request import Request


def _key(request: Request) -> tuple[float, ...]:
    return (request.new + request.guess, request.ready_s)


def POLICY() -> SortedQueue:  # noqa: N802 - the name that the registry looks for
    """Return an empty queue by predicted work."""
    return SortedQueue(key=_key)
