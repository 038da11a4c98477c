"""Running sequences per engine: the user's cap; how many really run follows from cache and load."""

from __future__ import annotations

from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:  # noqa: ARG001 - protocol
    """Return the pinned limit or the cap."""
    pinned = facts.pinned("max_num_seqs")
    return (pinned if pinned is not None else facts.choices.max_num_seqs,)


dimension = Dimension(name="max_num_seqs", order=10, values=values)
