"""A fleet solved again without the shapes that a second opinion holds to be slower than they were priced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any, cast

from planner.diagnostics import Diagnostics
from planner.ir.candidates import SearchResult
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_room import rooms_of
from planner.search.fleet_shapes import supply_from
from planner.search.fleet_solving import solved
from planner.space.engine import cached, installed_costs


def without_pools(
    problem: Problem[FleetProblem], result: SearchResult, doubted: Sequence[str], diagnostics: Diagnostics
) -> SearchResult | None:
    """Return the best fleet over the result's shapes but those of the doubted pools, None if there is none.

    The bound of the first search still holds: the space only became smaller.
    """
    details = dict(result.details)
    shapes = {n: list(s) for n, s in cast("Mapping[str, Sequence[Any]]", details["shapes"]).items()}
    queues = cast("Mapping[str, Mapping[str, Any]]", details["queues"])
    models = {pool.name: pool.model for pool in result.pools}
    dropped: dict[str, set[int]] = {}
    for name in doubted:
        dropped.setdefault(models[name], set()).add(int(queues[name]["shape"]))
    source = cached(installed_costs)
    supplies: list[ModelSupply] = []
    for at, model in enumerate(problem.payload.models):
        kept = [s for i, s in enumerate(shapes.get(model.name, [])) if i not in dropped.get(model.name, ())]
        wanted = model.rate_rps > 0.0 or model.min_replicas > 0
        supplies.append(supply_from(problem, at, kept, source) if wanted else ModelSupply())
    words = ", ".join(f"{len(numbers)} of {model}" for model, numbers in sorted(dropped.items()))
    diagnostics.note(
        "shapes-left-out",
        f"shapes that the checker holds to be slower than they were priced are left out: {words}",
    )
    rooms = rooms_of(problem.cluster.groups, problem.payload)
    again = solved(problem, supplies, rooms, diagnostics, monotonic() + problem.options.time_limit_s)
    value, bound = again.objective.value, result.objective.bound
    if value is None:
        return None
    gap = None if bound is None else abs(value - bound) / max(abs(value), 1e-300)
    return replace(
        again,
        status="optimal" if gap is not None and gap <= 1e-6 else "feasible",
        objective=replace(again.objective, bound=bound, gap=gap),
    )
