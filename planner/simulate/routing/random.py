"""To any rank."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from planner.simulate.serving_engine import Rank
from planner.simulate.serving_request import Request


class AnyRank:
    """Draws a rank."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def choose(self, ranks: Sequence[Rank], request: Request) -> int:  # noqa: ARG002 - chance alone counts
        """Return a random rank."""
        return self._random.randrange(len(ranks))


def ROUTER(seed: int) -> AnyRank:  # noqa: N802 - the name that the registry looks for
    """Return the router."""
    return AnyRank(seed)
