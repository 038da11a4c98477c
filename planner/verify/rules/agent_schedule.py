"""The times of an agent plan: calls after what they wait for, slots and limits kept, figures added up.

Where branches can go several ways each outcome is checked on its own, and the expectations over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import cast

from planner.ir.agent_graph import AgentGraph, LlmCall, Nested
from planner.verify.agent_drafts import drafted
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
    graph, _ = drafted(case.problem.payload.graph, case.plan.details)
    mixed: list[_View] = []
    for share, route in _routes(case):
        calls = {str(c["name"]): c for c in _entries(route, "calls")}
        if not calls:
            yield Violation(message="the plan lists no calls")
            return
        yield from _models(graph, calls)
        views = list(_views(route, calls))
        if abs(sum(v.weight for v in views) - 1.0) > _SLACK_S:
            yield Violation(message="the weights of the outcomes do not add up to 1")
        for view in views:
            yield from _order(route, calls, view)
            yield from _slots(graph, view.calls)
            yield from _limits(graph, view)
        mixed += [replace(view, weight=view.weight * share) for view in views]
    yield from _figures(case, mixed)
    cost = case.plan.predicted.get("cost_usd")
    if graph.budget_usd is not None and (cost is None or cost.value > graph.budget_usd * (1 + 1e-6)):
        yield Violation(message="the calls cost more than the budget")


def _routes(case: Case) -> Iterator[tuple[float, Case]]:
    """Yield (share of the runs, the plan of such a run); the plan itself where all runs are alike."""
    routes = _entries(case, "routes")
    if not routes:
        yield 1.0, case
    for route in routes:
        plan = case.plan.model_copy(update={"details": {**case.plan.details, **route}})
        yield _time(route, "share"), replace(case, plan=plan)


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """The calls made in one outcome, with the times that they have there."""

    weight: float
    calls: dict[str, _Entry]
    finals: list[str]
    not_taken: frozenset[tuple[str, str]] = frozenset()


def _views(case: Case, calls: dict[str, _Entry]) -> Iterator[_View]:
    finals = [str(n) for n in cast("list[object]", case.plan.details.get("finals", []))]
    outcomes = _entries(case, "outcomes")
    if not outcomes:
        yield _View(weight=1.0, calls=calls, finals=finals)
    for outcome in outcomes:
        made: dict[str, _Entry] = {}
        for name, times in cast("dict[str, list[float]]", outcome["calls"]).items():
            start, first, end = times
            made[name] = {**calls.get(name, {}), "start_s": start, "first_token_s": first, "end_s": end}
        ends = [str(n) for n in cast("list[object]", outcome["finals"])]
        unused = cast("list[list[str]]", outcome.get("not_taken", []))
        yield _View(
            weight=_time(outcome, "weight"),
            calls=made,
            finals=ends,
            not_taken=frozenset((str(pair[0]), str(pair[1])) for pair in unused),
        )


def _figures(case: Case, views: list[_View]) -> Iterator[Violation]:
    """Compare predicted first token and end with the means over the outcomes of what the calls say."""
    for name, key in (("latency_s", "end_s"), ("ttft_s", "first_token_s")):
        if name not in case.plan.predicted:
            continue
        total = 0.0
        for view in views:
            times = [
                _time(c, key if key in c else "end_s") for n, c in view.calls.items() if n in view.finals
            ]
            if not times:
                yield Violation(message="an outcome has no call that ends it")
                return
            total += view.weight * (max(times) if name == "latency_s" else sum(times) / len(times))
        claimed = case.plan.predicted[name].value
        if not abs(total - claimed) <= _SLACK_S * max(1.0, abs(claimed)):
            yield Violation(
                message=f"{name} is not what the times of the calls come to",
                numbers=(("claimed", claimed), ("calls", total)),
            )


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


def _order(case: Case, listed: dict[str, _Entry], view: _View) -> Iterator[Violation]:
    """Yield calls that start before the ends they wait for, and streams that end before their producer."""
    graph: AgentGraph = case.problem.payload.graph
    joins = {n.name: n.join for n in graph.nodes}
    branching = {e.source for e in graph.edges if e.probability < 1.0}
    branching |= {n.name for n in graph.nodes if isinstance(n.work, Nested)}
    for edge in _entries(case, "edges"):
        ends_at = str(edge.get("from")), str(edge.get("to"))
        if not all(name in listed for name in ends_at):
            yield Violation(message=f"edge {ends_at[0]} -> {ends_at[1]} ends at no call")
        source, target = view.calls.get(ends_at[0]), view.calls.get(ends_at[1])
        if source is None or target is None:
            continue
        if ends_at in view.not_taken:
            if str(source["node"]).split("@")[0].split("/")[0] not in branching:
                yield Violation(message=f"edge {ends_at[0]} -> {ends_at[1]} is no branch but is not taken")
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
                events += _held(_time(call, "start_s") + _SLACK_S, _time(call, "end_s") - _SLACK_S, graph)
        running = most = 0
        for _, change in sorted(events):
            running += change
            most = max(most, running)
        if most > model.slots * model.replicas:
            yield Violation(
                message=f"{most} calls run at once on {model.name!r}",
                numbers=(("running", most), ("slots", model.slots * model.replicas)),
            )


def _held(begin: float, end: float, graph: AgentGraph) -> list[tuple[float, int]]:
    """Return when a slot is taken and given back; of runs that repeat, folded into one period."""
    period_s = graph.period_s
    if period_s is None:
        return [(begin, 1), (end, -1)]
    whole, rest = divmod(end - begin, period_s)
    first, last = begin % period_s, begin % period_s + rest
    found = [(0.0, int(whole)), (first, 1)]
    return found + ([(0.0, 1), (last - period_s, -1)] if last > period_s else [(last, -1)])


def _limits(graph: AgentGraph, view: _View) -> Iterator[Violation]:
    finals = [view.calls[n] for n in view.finals if n in view.calls]
    latest = max((_time(c, "end_s") for c in finals), default=float("nan"))
    if graph.deadline_s is not None and not latest <= graph.deadline_s + _SLACK_S:
        yield Violation(
            message="the last call ends after the deadline",
            numbers=(("end_s", latest), ("deadline_s", graph.deadline_s)),
        )


RULE = Rule(
    says="calls run after what they wait for, on allowed models, within slots and limits, as long as claimed",
    check=_check,
    kinds=frozenset({"agents"}),
    with_pools=False,
)
