"""Expert parallelism: routed experts are spread over the ranks of a stage."""

from __future__ import annotations

from planner.ir.model_graph import Experts
from planner.ir.serving import ServingChoices
from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return 1 without experts; all or none of the stage's ranks, and what lies between where supported."""
    if not facts.experts:
        return (1,)
    stage = degree(chosen, "tp") * degree(chosen, "attention_dp") * degree(chosen, "prefill_cp")
    degrees = [ep for ep in range(1, stage + 1) if stage % ep == 0]
    if not facts.engine.hybrid_experts:
        degrees = sorted({1, stage})
    return tuple(ep for ep in degrees if all(_splits(op, ep, stage, facts.choices) for op in facts.experts))


def _splits(op: Experts, ep: int, stage: int, choices: ServingChoices) -> bool:
    filled = any((op.num_experts + more) % ep == 0 for more in choices.redundant_experts)
    return filled and op.inter % (stage // ep) == 0


dimension = Dimension(name="ep", order=5, values=values)
