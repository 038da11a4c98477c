"""The checker's own count of how unevenly the ranks of experts are loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import cast

from planner.ir.model_graph import Experts
from planner.ir.serving import ServingProblem
from planner.plan.schema import Plan, Pool

Map = tuple[tuple[int, ...], ...]


def expert_maps(plan: Plan) -> Mapping[str, Map]:
    """Return which expert stands in which slot, by pool and layer; what is no such table is left out."""
    stated = plan.details.get("expert_maps")
    found: dict[str, Map] = {}
    for name, rows in cast("dict[str, object]", stated).items() if isinstance(stated, dict) else ():
        if isinstance(rows, list) and all(isinstance(row, list) for row in cast("list[object]", rows)):
            table = cast("list[list[object]]", rows)
            if all(isinstance(slot, int) for row in table for slot in row):
                found[name] = tuple(tuple(cast("list[int]", row)) for row in table)
    return found


def faults(payload: ServingProblem, pool: Pool, table: Map | None) -> str:
    """Return what is wrong with the slots of a pool with copies; empty where nothing is."""
    experts, copies = payload.model.num_experts, int(pool.limits.get("redundant_experts", 0))
    if copies not in payload.choices.redundant_experts:
        return f"{copies} copies of experts are not among those allowed"
    if (experts + copies) % pool.strategy.ep:
        return f"{experts} experts and {copies} copies do not fill {pool.strategy.ep} ranks evenly"
    if not copies or not payload.expert_loads:
        return ""
    if table is None or len(table) != payload.model.num_layers:
        return "the plan does not say where the experts of every layer stand"
    if any(len(row) != experts + copies or set(row) != set(range(experts)) for row in table):
        return "not every expert stands somewhere"
    return ""


def skew_of(payload: ServingProblem, pool: Pool, table: Map | None) -> float:
    """Return the load of the fullest rank of a pool over the mean.

    Copies of an expert share its tokens evenly. Without a table experts stand in the order of their numbers.
    """
    ranks = pool.strategy.ep
    if not payload.expert_loads or ranks == 1:
        return payload.routing_skew
    fullest = everything = 0.0
    for loads, row in zip(payload.expert_loads, _rows(payload, table), strict=True):
        slots = row or tuple(range(len(loads)))
        times = Counter(slots)
        each = -(-len(slots) // ranks)
        shares = [loads[expert] / times[expert] for expert in slots]
        fullest += max(sum(shares[k : k + each]) for k in range(0, len(shares), each))
        everything += sum(loads)
    return fullest * ranks / everything if everything else 1.0


def _rows(payload: ServingProblem, table: Map | None) -> Map:
    """Return the rows of a table that go with the loads: those of layers with experts."""
    if table is None:
        return ((),) * len(payload.expert_loads)
    layers = payload.model.layers
    sparse = tuple(
        table[at] for at, layer in enumerate(layers) if any(isinstance(op, Experts) for op in layer.ops)
    )
    return sparse[: len(payload.expert_loads)]
