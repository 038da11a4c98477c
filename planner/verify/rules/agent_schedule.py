"""The times of an agent plan: calls after what they wait for, slots and limits kept, prices added up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.agent_graph import AgentGraph, LlmCall
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule

_SLACK_S = 1e-6
_Entry = dict[str, object]


def _entries(case: Case, key: str) -> list[_Entry]:
    value = case.plan.details.get(key)
    return cast("list[_Entry]", value) if isinstance(value, list) else []


def _time(entry: _Entry, key: str) -> float:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _check(case: Case) -> Iterator[Violation]:
    if case.plan.status == "infeasible":
        return
    graph: AgentGraph = case.problem.payload.graph
    calls = {str(c["name"]): c for c in _entries(case, "calls")}
    if not calls:
        yield Violation(message="the plan lists no calls")
        return
    yield from _models(graph, calls)
    yield from _order(case, calls)
    yield from _slots(graph, calls)
    yield from _limits(case, graph, calls)


def _models(graph: AgentGraph, calls: dict[str, _Entry]) -> Iterator[Violation]:
    """Every model call of a top-level node runs on a model that the node allows and that is good enough."""
    known = {m.name: m for m in graph.models}
    allowed = {n.name: n.work.models for n in graph.nodes if isinstance(n.work, LlmCall)}
    planned = {str(c["node"]).split("@")[0] for c in calls.values()}
    for name in sorted(set(allowed) - planned):
        yield Violation(message=f"node {name!r} has no call")
    for name, call in calls.items():
        if "model" not in call:
            continue
        model, node = str(call["model"]), str(call["node"]).split("@")[0]
        if model not in known or (node in allowed and model not in allowed[node]):
            yield Violation(message=f"call {name!r} runs on {model!r}, which its node does not allow")
            continue
        quality = known[model].quality
        if graph.min_quality is not None and (quality is None or quality < graph.min_quality):
            yield Violation(message=f"call {name!r} runs on {model!r}, below the least quality")


def _order(case: Case, calls: dict[str, _Entry]) -> Iterator[Violation]:
    """Yield calls that start before the ends they wait for, and streams that end before their producer."""
    joins = {n.name: n.join for n in case.problem.payload.graph.nodes}
    for edge in _entries(case, "edges"):
        source, target = calls.get(str(edge.get("from"))), calls.get(str(edge.get("to")))
        if source is None or target is None:
            yield Violation(message=f"edge {edge.get('from')} -> {edge.get('to')} ends at no call")
            continue
        if joins.get(str(target["node"]).split("@")[0]) is not None or str(target["name"]).endswith("/done"):
            continue
        waits = edge.get("kind") in ("barrier", "overlap")
        before = _time(source, "end_s") if waits else _time(source, "start_s")
        late = _time(target, "start_s") >= before - _SLACK_S
        ends = edge.get("kind") != "staircase" or _time(target, "end_s") >= _time(source, "end_s") - _SLACK_S
        if not (late and ends):
            yield Violation(message=f"{target['name']!r} runs before what it needs from {source['name']!r}")


def _slots(graph: AgentGraph, calls: dict[str, _Entry]) -> Iterator[Violation]:
    """No model runs more calls at once than it has slots."""
    for model in graph.models:
        events: list[tuple[float, int]] = []
        for call in calls.values():
            if (
                call.get("model") == model.name
                and _time(call, "end_s") > _time(call, "start_s") + 2 * _SLACK_S
            ):
                events += [(_time(call, "start_s") + _SLACK_S, 1), (_time(call, "end_s") - _SLACK_S, -1)]
        running = most = 0
        for _, change in sorted(events):
            running += change
            most = max(most, running)
        if most > model.slots * model.replicas:
            yield Violation(
                message=f"{most} calls run at once on {model.name!r}",
                numbers=(("running", most), ("slots", model.slots * model.replicas)),
            )


def _limits(case: Case, graph: AgentGraph, calls: dict[str, _Entry]) -> Iterator[Violation]:
    finals = [
        calls[str(n)] for n in cast("list[object]", case.plan.details.get("finals", [])) if str(n) in calls
    ]
    latest = max((_time(c, "end_s") for c in finals), default=float("nan"))
    if graph.deadline_s is not None and not latest <= graph.deadline_s + _SLACK_S:
        yield Violation(
            message="the last call ends after the deadline",
            numbers=(("end_s", latest), ("deadline_s", graph.deadline_s)),
        )
    cost = case.plan.predicted.get("cost_usd")
    if graph.budget_usd is not None and (cost is None or cost.value > graph.budget_usd * (1 + 1e-9)):
        yield Violation(message="the calls cost more than the budget")


RULE = Rule(
    says="calls start after what they wait for, on allowed models, within slots, deadline and budget",
    check=_check,
    kinds=frozenset({"agents"}),
    with_pools=False,
)
