"""To the rank that holds the longest prefix, unless it is much busier than the least loaded one.

The cost of a rank is the prompt tokens it would compute plus those that wait there, and a share for each
running request: what the KV routers of Dynamo and llm-d weigh against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.simulate.serving_engine import Rank
from planner.simulate.serving_request import Request

_RUNNING_TOKENS = 64
"""What a running request counts against computing tokens; a planning figure of this project."""


class PrefixAware:
    """Looks at every rank's prefix cache."""

    def choose(self, ranks: Sequence[Rank], request: Request) -> int:
        """Return the rank with the least to compute before the request's first token."""

        def cost(index: int) -> float:
            rank = ranks[index]
            held = 0
            if rank.prefixes is not None and request.blocks:
                held = rank.prefixes.on_device(request.blocks) * rank.prefixes.block_tokens
            return request.context - held + rank.waiting_tokens + _RUNNING_TOKENS * rank.running

        return min(range(len(ranks)), key=cost)


def ROUTER(seed: int) -> PrefixAware:  # noqa: ARG001, N802 - the registry's name; no chance in it
    """Return the router."""
    return PrefixAware()
