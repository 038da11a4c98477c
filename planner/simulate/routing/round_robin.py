"""To the ranks in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from planner.simulate.serving_engine import Rank
from planner.simulate.serving_request import Request


@dataclass(slots=True)
class RoundRobin:
    """Counts requests."""

    count: int = -1

    def choose(self, ranks: Sequence[Rank], request: Request) -> int:  # noqa: ARG002 - turns alone count
        """Return the next rank."""
        self.count += 1
        return self.count % len(ranks)


def ROUTER(seed: int) -> RoundRobin:  # noqa: ARG001, N802 - the registry's name; no chance in it
    """Return the router."""
    return RoundRobin()
