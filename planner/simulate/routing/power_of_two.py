"""To the less loaded of two random ranks (Mitzenmacher 2001); the default of several routers."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from planner.simulate.serving_engine import Rank
from planner.simulate.serving_request import Request


class PowerOfTwo:
    """Draws two ranks."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def choose(self, ranks: Sequence[Rank], request: Request) -> int:  # noqa: ARG002 - load alone counts
        """Return the less loaded of two."""
        first, second = (self._random.randrange(len(ranks)) for _ in range(2))
        return first if ranks[first].load <= ranks[second].load else second


def ROUTER(seed: int) -> PowerOfTwo:  # noqa: N802 - the name that the registry looks for
    """Return the router."""
    return PowerOfTwo(seed)
