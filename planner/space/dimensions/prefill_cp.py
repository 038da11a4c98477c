"""Context parallelism of prefill: a prompt's tokens are split over ranks that exchange keys and values."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree, fits_domain, powers_of_two

MAX_DEGREE = 8
MIN_TOKENS_PER_RANK = 1024
ENGINES = frozenset({"sglang"})
"""Engines that run it in a release; vLLM has the flag but its model runner refuses it (vllm issue 47846).

A user who pins the degree gets it priced under any engine.
"""


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return 1 except in a prefill pool with prompts long enough to give each rank its tokens."""
    tp, ranks = degree(chosen, "tp"), degree(chosen, "attention_dp")
    pinned = facts.pinned("prefill_cp") or facts.pinned("cp")
    if facts.role != "prefill" or ranks > 1 or facts.states:
        return (1,)
    if facts.engine.software.engine not in ENGINES and pinned is None:
        return (1,)
    longest = int(facts.requests.new_tokens.max())
    limit = min(MAX_DEGREE, facts.max_devices // tp, max(1, longest // MIN_TOKENS_PER_RANK))
    return tuple(cp for cp in powers_of_two(limit) if fits_domain(facts, tp * cp))


dimension = Dimension(name="prefill_cp", order=4, values=values)
