"""Calls take as long as their models do: overhead, prompt and answer, with the drafts that the plan names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from planner.ir.agent_graph import AgentGraph
from planner.verify.agent_drafts import drafted
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule

_Row = dict[str, Any]
_SLACK = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    if case.plan.status == "infeasible":
        return
    graph, wrong = drafted(case.problem.payload.graph, case.plan.details)
    yield from (Violation(message=message) for message in wrong)
    for route in cast("list[_Row]", case.plan.details.get("routes") or [case.plan.details]):
        yield from _quick_calls(graph, route)


def _quick_calls(graph: AgentGraph, route: _Row) -> Iterator[Violation]:
    """Yield calls that wait for whole inputs and take less time than their model needs."""
    models = {m.name: m for m in graph.models}
    kinds: dict[str, set[str]] = {}
    for edge in cast("list[_Row]", route.get("edges") or []):
        kinds.setdefault(str(edge.get("to")), set()).add(str(edge.get("kind")))
    for call in cast("list[_Row]", route.get("calls") or []):
        model = models.get(str(call.get("model")))
        if model is None or kinds.get(str(call.get("name")), set()) & {"staircase", "overlap"}:
            continue
        took = float(call["end_s"]) - float(call["start_s"])
        prompt, output = float(call["prompt_tokens"]), float(call["output_tokens"])
        needs = model.overhead_s + prompt / model.prefill_tokens_per_s + output * model.decode_s_per_token
        is_made = float(call["end_s"]) > 0.0
        if is_made and not took >= needs * (1.0 - _SLACK) - _SLACK:
            yield Violation(
                message=f"{call['name']!r} takes less time than {model.name!r} needs for it",
                numbers=(("takes_s", took), ("needs_s", needs)),
            )


RULE = Rule(
    says="calls take the time that their models need, with the drafts that are named",
    check=_check,
    kinds=frozenset({"agents"}),
    with_pools=False,
    requires=("agent-schedule",),
)
