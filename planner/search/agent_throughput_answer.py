"""From a mixture of routes to a plan: expected figures, every route in detail, how busy all is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentGraph
from planner.ir.candidates import ObjectiveValue, SearchResult, SearchStatus
from planner.search.agent_answer import RunFigures, estimated, expected_figures, plan_details, run_figures
from planner.search.agent_throughput import RouteShare, Throughput
from planner.space.agent_flat import FlatGraph

SPACE = (
    "mixtures of routes: a model for every call and, where a limit of a run asks for it, a stream for every "
    "consumer; a share of the runs takes each route. What runs share is counted in the mean over outcomes of "
    "branches; with a deadline servers are busy for one of "
)


def throughput_result(
    graph: AgentGraph, flat: FlatGraph, found: Throughput, loads: Sequence[float], diagnostics: Diagnostics
) -> SearchResult:
    """Return the plan of a mixture."""
    _tell(found, diagnostics)
    status: SearchStatus = "optimal" if found.is_proved else "feasible"
    complete = found.worlds.complete
    gap = abs(found.bound - found.value) / found.value
    values = expected_figures(_figures(found))
    values["runs_per_s"] = (found.value, "1/s")
    busy = max(_used(found, name) / amount for name, amount in found.capacity.items())
    values["busiest_share"] = (busy, "")
    work = {"calls": len(flat.calls), "routes_priced": found.num_routes, "routes_used": len(found.routes)}
    return SearchResult(
        status=status,
        objective=ObjectiveValue(
            name="max_throughput",
            unit="1/s",
            sense="max",
            value=found.value,
            # what holds for a share of the outcomes says nothing about all of them
            bound=found.bound if complete else None,
            gap=gap if complete else None,
        ),
        pools=(),
        placement=(),
        predicted=estimated(values, flat),
        alternatives=(),
        infeasibility=None,
        method="column generation over routes (GLOP, CP-SAT)",
        work=tuple(sorted(work.items())),
        space=SPACE + ", ".join(f"{load:.0%}" for load in loads) + " of the time",
        details=_details(graph, flat, found),
    )


def _tell(found: Throughput, diagnostics: Diagnostics) -> None:
    if found.load >= 1.0:
        diagnostics.note(
            "agents-at-capacity",
            "at this many runs per second something shared is busy all the time, and the queue before it "
            "grows without end: times are those of a run that waits for nobody. A deadline_s leaves room for "
            "waiting",
        )
    else:
        diagnostics.note(
            "agents-waiting",
            f"no slot is busy for more than {found.load:.0%} of the time; each call is given the mean wait "
            "at that load for runs that begin at random, and the deadline holds with it at mean lengths",
        )
    if not found.worlds.complete:
        diagnostics.warn(
            "agents-drawn-outcomes",
            f"of too many outcomes {len(found.worlds.worlds)} are drawn: loads are estimates without a bound",
        )


def _figures(found: Throughput) -> list[RunFigures]:
    return [
        replace(figures, weight=figures.weight * route.runs_per_s / found.value)
        for route in found.routes
        for figures in run_figures(route.stage)
    ]


def _used(found: Throughput, name: str) -> float:
    return sum(route.runs_per_s * route.uses.get(name, 0.0) for route in found.routes)


def _details(graph: AgentGraph, flat: FlatGraph, found: Throughput) -> tuple[tuple[str, object], ...]:
    """Return the commonest route as the plan of a run, all routes with their shares, and what is busy."""
    routes = [_route(graph, flat, route, found.value) for route in found.routes]
    load: list[dict[str, object]] = [
        {
            "resource": name,
            "capacity_per_s": amount,
            "used_per_s": _used(found, name),
            "price": found.prices.get(name, 0.0),
        }
        for name, amount in sorted(found.capacity.items())
    ]
    return (
        *plan_details(graph, flat, found.routes[0].stage),
        ("routes", routes),
        ("load", load),
        ("load_limit", found.load),
        ("waits_s", dict(sorted(found.waits_s.items()))),
    )


def _route(graph: AgentGraph, flat: FlatGraph, route: RouteShare, total: float) -> dict[str, object]:
    return {
        "share": route.runs_per_s / total,
        "runs_per_s": route.runs_per_s,
        **dict(plan_details(graph, flat, route.stage)),
    }
