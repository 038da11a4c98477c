"""Runs per second of a mixture of routes: what every route takes fits what there is, and nothing does better.

Loads are counted again from the times, models and tokens of the calls. Without limits of single runs the
prices that the plan states prove its bound: if every way to make each call costs so much that a run costs at
least 1, no mixture has more runs per second than all capacity at these prices (linear duality).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.agent_graph import AgentGraph, AgentModel, LlmCall, ToolCall
from planner.verify.agent_drafts import drafted
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule, differs

_Entry = dict[str, object]
_MINUTE_S = 60.0
_SLACK = 1e-6
_PROOF = 1e-4


def _entries(owner: dict[str, object], key: str) -> list[_Entry]:
    value = owner.get(key)
    return cast("list[_Entry]", value) if isinstance(value, list) else []


def _number(entry: _Entry, key: str) -> float:
    value = entry.get(key)
    return float(value) if isinstance(value, int | float) else float("nan")


def _check(case: Case) -> Iterator[Violation]:
    graph, _ = drafted(case.problem.payload.graph, case.plan.details)
    if graph.goal != "max_throughput" or case.plan.status == "infeasible":
        return
    routes = _entries(case.plan.details, "routes")
    if not routes:
        yield Violation(message="the plan lists no routes")
        return
    total = sum(_number(route, "runs_per_s") for route in routes)
    value = case.plan.objective.value
    if value is None or differs(value, total, _SLACK):
        yield Violation(message=f"the routes come to {total:.6g} runs per second")
    for route in routes:
        if differs(_number(route, "share") * total, _number(route, "runs_per_s"), _SLACK):
            yield Violation(message="the share of a route is not that of its runs")
    capacity = _capacity(graph)
    limit = _number(case.plan.details, "load_limit")
    if not 0.0 < limit <= 1.0:
        yield Violation(message="no share of the time is stated for which servers are busy")
    for name, amount in capacity.items():
        used = sum(_number(r, "runs_per_s") * _use(case, graph, r, name) for r in routes)
        if not used <= amount * limit * (1.0 + _SLACK):
            yield Violation(
                message=f"{name}: the routes take more than there is",
                numbers=(("used_per_s", used), ("capacity_per_s", amount * limit)),
            )
    if _is_free(graph) and not any(model.drafts for model in graph.models):
        yield from _proof(case, graph, capacity)


def _capacity(graph: AgentGraph) -> dict[str, float]:
    """Return what there is per second."""
    found = {f"slots {m.name}": float(m.slots * m.replicas) for m in graph.models}
    for model in graph.models:
        if model.calls_per_minute is not None:
            found[f"rate {model.name}"] = model.calls_per_minute / _MINUTE_S
        if model.tokens_per_minute is not None:
            found[f"tokens {model.name}"] = model.tokens_per_minute / _MINUTE_S
    for node in graph.nodes:
        if isinstance(node.work, ToolCall) and node.work.limit is not None:
            found[f"tool {node.work.tool}"] = float(node.work.limit)
    return found


def _use(case: Case, graph: AgentGraph, route: _Entry, name: str) -> float:
    """Return what a run of a route takes of one thing, in the mean over its outcomes."""
    sort, _, owner = name.partition(" ")
    tools = {n.name: n.work.tool for n in graph.nodes if isinstance(n.work, ToolCall)}
    wait_s = _number(cast("_Entry", case.plan.details.get("waits_s") or {}), name)
    wait_s = wait_s if wait_s > 0.0 else 0.0
    used = 0.0
    for call, weight, length_s in _made(route):
        if call.get("model") == owner and sort in ("slots", "rate", "tokens"):
            tokens = _number(call, "prompt_tokens") + _number(call, "output_tokens")
            used += weight * {"slots": length_s - wait_s, "rate": 1.0, "tokens": tokens}[sort]
        elif sort == "tool" and tools.get(str(call["node"]).split("@")[0]) == owner:
            used += weight * (length_s - wait_s)
    return used


def _made(route: _Entry) -> Iterator[tuple[_Entry, float, float]]:
    """Yield (call, weight of the outcome, seconds) of every call of every outcome."""
    calls = {str(c["name"]): c for c in _entries(route, "calls")}
    outcomes = _entries(route, "outcomes")
    if not outcomes:
        yield from ((c, 1.0, _number(c, "end_s") - _number(c, "start_s")) for c in calls.values())
    for outcome in outcomes:
        for name, (start, _, end) in cast("dict[str, list[float]]", outcome["calls"]).items():
            yield calls[name], _number(outcome, "weight"), end - start


def _is_free(graph: AgentGraph) -> bool:
    """Whether any model that a call allows may be taken, whatever the others run on."""
    timed = graph.deadline_s is not None or any(n.deadline_s is not None for n in graph.nodes)
    flat = all(
        isinstance(n.work, LlmCall | ToolCall) and n.join is None and n.copies == 1 for n in graph.nodes
    )
    samples = all(not isinstance(n.work, LlmCall) or n.work.samples == 1 for n in graph.nodes)
    loops = any(e.max_rounds is not None for e in graph.edges)
    return not timed and graph.budget_usd is None and flat and samples and not loops


def _proof(case: Case, graph: AgentGraph, capacity: dict[str, float]) -> Iterator[Violation]:
    """Check the bound by the prices: capacity at them, if the cheapest run costs at least 1."""
    bound = case.plan.objective.bound
    prices = {str(r["resource"]): _number(r, "price") for r in _entries(case.plan.details, "load")}
    if bound is None:
        return
    if set(prices) != set(capacity) or not all(price >= 0.0 for price in prices.values()):
        yield Violation(message="prices are not stated for all that runs share")
        return
    run = 0.0
    nodes = {n.name: n for n in graph.nodes}
    models = {m.name: m for m in graph.models}
    route = _entries(case.plan.details, "routes")[0]
    for call, weight, length_s in _made(route):
        work = nodes[str(call["node"])].work
        if isinstance(work, LlmCall):
            run += weight * min(
                _price(prices, models[n], call) for n in work.models if _fits(graph, models[n])
            )
        elif isinstance(work, ToolCall):
            run += weight * length_s * prices.get(f"tool {work.tool}", 0.0)
    own = sum(prices[name] * amount for name, amount in capacity.items()) / run if run > 0.0 else float("inf")
    if differs(bound, own, _PROOF):
        yield Violation(
            message=f"the prices prove {own:.6g} runs per second, the plan says {bound:.6g}",
            numbers=(("own", own), ("claimed", bound)),
        )


def _price(prices: dict[str, float], model: AgentModel, call: _Entry) -> float:
    """Return what a call costs on a model, at mean lengths."""
    prompt, output = _number(call, "prompt_tokens"), _number(call, "output_tokens")
    length_s = model.overhead_s + prompt / model.prefill_tokens_per_s + output * model.decode_s_per_token
    return (
        prices[f"slots {model.name}"] * length_s
        + prices.get(f"rate {model.name}", 0.0)
        + prices.get(f"tokens {model.name}", 0.0) * (prompt + output)
    )


def _fits(graph: AgentGraph, model: AgentModel) -> bool:
    floor = graph.min_quality
    return floor is None or (model.quality is not None and model.quality >= floor)


RULE = Rule(
    says="the runs per second of the routes fit slots, rates and tools, and the prices prove the bound",
    check=_check,
    kinds=frozenset({"agents"}),
    with_pools=False,
    requires=("agent-schedule",),
)
