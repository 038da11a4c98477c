"""Weights in host memory: none, or where the user allows it a few amounts in the ways of the engine."""

from __future__ import annotations

from math import ceil

from planner.ir.model_graph import Experts, Linear, Op, Small
from planner.ir.weight_offload import GIB, OFFLOADING_ENGINES, WeightOffload
from planner.space.dimension import Chosen, Dimension, SpaceFacts, Value, degree
from planner.space.engine import bytes_per_element

GROUPS = ((1, 16), (1, 8), (1, 6), (1, 4), (1, 3), (1, 2), (2, 3), (3, 4), (7, 8), (1, 1))
"""Layers in host memory out of how many, fewest first; single layers between others hide their copies."""
PARTS = 12
"""Amounts in GiB are tried in so many equal steps up to everything."""


def values(facts: SpaceFacts, chosen: Chosen) -> tuple[Value, ...]:
    """Return what may stay in host memory; SGLang counts the same bytes on every stage, so it takes one.

    Experts that are balanced at run time change places, so they stay on their devices.
    """
    if not facts.choices.weight_offload or facts.engine.workers is not None:
        return ("",)
    if degree(chosen, "redundant_experts"):
        return ("",)
    found = [WeightOffload()]
    engine = facts.engine.software.engine
    if engine not in OFFLOADING_ENGINES:
        return ("",)
    if engine == "vllm":
        found += [
            WeightOffload(num_in_group=k, group_size=g) for k, g in GROUPS if k <= _layers(facts, chosen)
        ]
        found += [WeightOffload(expert_gib=n) for n in _amounts(_bytes(facts, chosen, experts_only=True))]
    elif degree(chosen, "pp") == 1:
        found += [WeightOffload(first_gib=n) for n in _amounts(_bytes(facts, chosen, experts_only=False))]
    return tuple(one.text for one in found)


def _layers(facts: SpaceFacts, chosen: Chosen) -> int:
    return ceil(facts.model.num_layers / degree(chosen, "pp"))


def _amounts(num_bytes: float) -> tuple[int, ...]:
    """Return a few whole GiB up to so many bytes."""
    steps = (ceil(num_bytes * part / PARTS / GIB) for part in range(1, PARTS + 1))
    return tuple(dict.fromkeys(n for n in steps if n))


def _bytes(facts: SpaceFacts, chosen: Chosen, *, experts_only: bool) -> float:
    """Return the weights of the layers of a device."""
    total = 0.0
    for layer in facts.model.layers:
        total += sum(_op_bytes(op, facts, chosen, experts_only=experts_only) for op in layer.ops)
    return total / degree(chosen, "pp")


def _op_bytes(op: Op, facts: SpaceFacts, chosen: Chosen, *, experts_only: bool) -> float:
    fmt = str(chosen["weight_fmt"])
    if isinstance(op, Experts):
        held = op.num_params_per_rank(
            degree(chosen, "ep"), degree(chosen, "moe_tp"), degree(chosen, "redundant_experts")
        )
        return held * bytes_per_element(facts.model.weight_fmt(op, fmt))
    if experts_only:
        return 0.0
    if isinstance(op, Linear):
        return op.num_params_per_rank(degree(chosen, "tp")) * bytes_per_element(
            facts.model.weight_fmt(op, fmt)
        )
    return op.num_params_per_rank(degree(chosen, "tp")) * 2.0 if isinstance(op, Small) else 0.0


dimension = Dimension(name="offload", order=12, values=values)
