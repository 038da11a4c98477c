"""Tokens per step: the chunk size of prefill, shared with decode tokens in an aggregated replica."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value

DEFAULT = (512, 1024, 2048, 4096, 8192, 16384)
ENOUGH = 8192
"""Tokens per step beyond which kernels gain no more from sharing a step, if the longest prompt fits."""


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:  # noqa: ARG001 - protocol
    """Return the budgets to try; a pure decode replica needs no more than its sequences."""
    limit = facts.choices.max_num_seqs
    if facts.role == "decode":
        return (limit,)
    pinned = facts.pinned("token_budget")
    if pinned is not None:
        return (pinned,)
    budgets = facts.choices.token_budgets or DEFAULT
    if facts.engine.workers is not None:
        return (max(budgets),)  # each estimate of a worker tries the smaller ones itself
    longest = float(facts.requests.new_tokens.max())
    enough = next((b for b in sorted(budgets) if b >= max(longest + limit, ENOUGH)), max(budgets))
    return tuple(b for b in sorted(budgets) if b <= enough)


dimension = Dimension(name="token_budget", order=9, values=values)
