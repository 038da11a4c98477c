"""Explains plans of agent graphs: critical path, value of streaming, of faster models, why not otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from planner.errors import InputError, UnknownNameError
from planner.ir.agent_graph import AgentGraph, AgentModel, AgentProblem, Edge, LlmCall, Node
from planner.ir.problem import Problem
from planner.plan.schema import Plan
from planner.report.agent_calls import PlannedCall, critical_path, level_time_s, planned_calls, streams_of
from planner.report.agent_routes import draft_facts, route_facts
from planner.report.explanation import Bottleneck, Variation
from planner.report.figures import figure, percent

AgentCase = Problem[AgentProblem]

_STREAMING = {"off": frozenset({"barrier"}), "lossless": frozenset({"barrier", "overlap", "items"})}
_MAX_SHOWN = 8
_MAX_QUESTION_CALLS = 1_500
_MIN_QUESTIONS = 3
_ALL_QUESTIONS_S = 8.0
_LEAST_S = 0.5


class AgentsExplainer:
    """Knows which changes of a graph's problem are worth asking about."""

    def facts(self, problem: AgentCase, plan: Plan) -> list[str]:
        """Return sentences on calls, critical path, streaming and guesses."""
        calls = planned_calls(plan)
        if not calls:
            return []
        return [
            *_call_facts(problem.payload.graph, plan, calls),
            *draft_facts(plan),
            *route_facts(plan),
            *_path_facts(plan, calls),
            *_stream_facts(plan),
            *_guess_facts(problem.payload.graph),
        ]

    def bottlenecks(self, problem: AgentCase, plan: Plan) -> list[Bottleneck]:
        """Return what the critical path is made of."""
        del problem
        calls = planned_calls(plan)
        path = critical_path(plan, calls)
        if not path or path[-1].end_s <= 0:
            return []
        total = path[-1].end_s
        spans = [(c.name, after.start_s - c.start_s) for c, after in pairwise(path)]
        spans.append((path[-1].name, total - path[-1].start_s))
        waited = path[0].start_s
        shares = [(name, span / total) for name, span in spans]
        shares += [("waiting for a slot", waited / total)] if waited > 0 else []
        ordered = tuple(sorted(shares, key=lambda pair: -pair[1]))
        return [Bottleneck(pool="critical path", step="to the last token", step_s=total, shares=ordered)]

    def variations(self, problem: AgentCase, plan: Plan) -> list[Variation]:
        """Return each limit lifted, each model faster or with more slots, and streaming left off."""
        if plan.status == "infeasible":
            return []
        graph = problem.payload.graph
        found = [
            *_lifted(problem),
            *_without_streams(problem, plan),
            *(v for m in graph.models if m.name in _used(plan) for v in _model_changes(problem, m)),
        ]
        # small graphs are solved long before their limit; of large ones few questions share the time
        num_calls = len(planned_calls(plan))
        found = found[: max(_MAX_QUESTION_CALLS // max(num_calls, 1), _MIN_QUESTIONS)]
        if not found:
            return []
        limit_s = max(min(problem.options.time_limit_s, _ALL_QUESTIONS_S / len(found)), _LEAST_S)
        return [
            replace(v, problem=replace(v.problem, options=replace(v.problem.options, time_limit_s=limit_s)))
            for v in found
        ]

    def fixed(self, problem: AgentCase, choices: Mapping[str, object]) -> AgentCase:
        """Return the problem with models of nodes (``merge=large``) or ``streaming=off`` fixed.

        Raises
        ------
        InputError
            If there is no such node, or its calls may not use that model.
        """
        graph = problem.payload.graph
        nodes = {n.name: n for n in graph.nodes if isinstance(n.work, LlmCall)}
        for name, value in choices.items():
            if name == "streaming":
                graph = _with_kinds(graph, _streaming_kinds(value))
            elif name in nodes:
                graph = _with_model(graph, nodes[name], str(value))
            else:
                raise UnknownNameError("choice", name, ["streaming", *nodes])
        return _with_graph(problem, graph)


def _with_graph(problem: AgentCase, graph: AgentGraph) -> AgentCase:
    return replace(problem, payload=replace(problem.payload, graph=graph))


def _streaming_kinds(value: object) -> frozenset[str]:
    # YAML reads off as a word here, but no and false mean the same to people
    word = "off" if value is False or value in ("no", "false") else str(value)
    if word not in _STREAMING:
        raise InputError("unknown word", key="streaming", value=value, allowed=", ".join(_STREAMING))
    return _STREAMING[word]


def _with_kinds(graph: AgentGraph, kinds: frozenset[str]) -> AgentGraph:
    def kept(edge: Edge) -> Edge:
        return replace(edge, kinds=tuple(k for k in edge.kinds if k in kinds) or ("barrier",))

    return replace(graph, edges=tuple(kept(e) for e in graph.edges))


def _with_model(graph: AgentGraph, node: Node, model: str) -> AgentGraph:
    assert isinstance(node.work, LlmCall)
    if model not in node.work.models:
        raise UnknownNameError(f"model of {node.name}", model, node.work.models)
    fixed = replace(node, work=replace(node.work, models=(model,)))
    return replace(graph, nodes=tuple(fixed if n.name == node.name else n for n in graph.nodes))


def _used(plan: Plan) -> set[str]:
    return {c.model for c in planned_calls(plan)}


def _lifted(problem: AgentCase) -> Iterator[Variation]:
    graph = problem.payload.graph
    for name, words, unit in (
        ("deadline_s", "deadline", "s"),
        ("budget_usd", "budget", "USD"),
        ("min_quality", "least quality", ""),
    ):
        limit = getattr(graph, name)
        if limit is not None:
            changes: dict[str, Any] = {name: None}
            yield Variation(
                sort="limit",
                change=f"{words} {figure(limit, unit)}",
                problem=_with_graph(problem, replace(graph, **changes)),
            )


def _model_changes(problem: AgentCase, model: AgentModel) -> Iterator[Variation]:
    changes: list[tuple[str, dict[str, Any]]] = [
        (f"{model.name} writing twice as fast", {"decode_s_per_token": model.decode_s_per_token / 2}),
        (f"{model.name} reading twice as fast", {"prefill_tokens_per_s": model.prefill_tokens_per_s * 2}),
        (f"twice the slots of {model.name}", {"slots": model.slots * 2}),
    ]
    if model.calls_per_minute is not None:
        changes.append((f"twice the rate of {model.name}", {"calls_per_minute": model.calls_per_minute * 2}))
    graph = problem.payload.graph
    for words, change in changes:
        changed = replace(model, **change)
        models = tuple(changed if m.name == model.name else m for m in graph.models)
        yield Variation(
            sort="resource", change=words, problem=_with_graph(problem, replace(graph, models=models))
        )


def _without_streams(problem: AgentCase, plan: Plan) -> Iterator[Variation]:
    kinds = {kind for _, kind, _ in streams_of(plan)}
    graph = problem.payload.graph
    if kinds:
        yield Variation(
            sort="why_not",
            change="every edge waits",
            problem=_with_graph(problem, _with_kinds(graph, _STREAMING["off"])),
        )
    if "staircase" in kinds:
        yield Variation(
            sort="why_not",
            change="only edges that cannot change an answer stream",
            problem=_with_graph(problem, _with_kinds(graph, _STREAMING["lossless"])),
        )


# -- sentences -----------------------------------------------------------------------------------


def _call_facts(graph: AgentGraph, plan: Plan, calls: list[PlannedCall]) -> Iterator[str]:
    counts: dict[str, int] = {}
    for call in calls:
        if call.model:
            counts[call.model] = counts.get(call.model, 0) + 1
    models = ", ".join(f"{n} on {name}" for name, n in sorted(counts.items()))
    figures = [
        f"{words} {figure(plan.predicted[name].value, unit)}"
        for name, words, unit in (
            ("ttft_s", "first token after", "s"),
            ("latency_s", "end after", "s"),
            ("cost_usd", "for", "USD"),
        )
        if name in plan.predicted and plan.predicted[name].value
    ]
    yield f"{len(calls)} calls ({models or 'no model'}): {', '.join(figures)}."
    used: dict[str, set[str]] = {}
    for call in calls:
        used.setdefault(call.node.split("@")[0], set()).update({call.model} - {""})
    lines: list[str] = []
    for node in graph.nodes:
        if isinstance(node.work, LlmCall) and len(node.work.models) > 1:
            chosen = used.get(node.name, set())
            others = ", ".join(m for m in node.work.models if m not in chosen)
            if others:
                lines.append(f"{node.name}: {', '.join(sorted(chosen))} was chosen over {others}.")
    yield from lines[:_MAX_SHOWN]
    if len(lines) > _MAX_SHOWN:
        yield f"So it is for {len(lines) - _MAX_SHOWN} more nodes with a choice of models."


def _path_facts(plan: Plan, calls: list[PlannedCall]) -> Iterator[str]:
    path = critical_path(plan, calls)
    if not path:
        return
    shown = [f"{c.name} ({figure(c.duration_s, 's')})" for c in path]
    if len(shown) > 2 * _MAX_SHOWN:
        left = len(shown) - 2 * _MAX_SHOWN
        shown = [*shown[:_MAX_SHOWN], f"{left} more calls", *shown[-_MAX_SHOWN:]]
    yield "Critical path: " + " -> ".join(shown) + "."
    levels = 0.0 if streams_of(plan) else level_time_s(plan, calls)
    end = max(c.end_s for c in calls)
    if end > 0 and levels > end * 1.001:
        yield (
            f"Run level by level, as frameworks with supersteps do, it would take {figure(levels, 's')} "
            f"({percent(levels / end - 1, signed=True)})."
        )


def _stream_facts(plan: Plan) -> Iterator[str]:
    by_target: dict[tuple[str, str, tuple[float, ...]], list[str]] = {}
    for (source, target), kind, boundaries in streams_of(plan):
        by_target.setdefault((target, kind, boundaries), []).append(source)
    for (target, kind, boundaries), sources in list(by_target.items())[:_MAX_SHOWN]:
        names = ", ".join(sources[:_MAX_SHOWN])
        names += f" and {len(sources) - _MAX_SHOWN} more" if len(sources) > _MAX_SHOWN else ""
        chunks = ", ".join(f"{b:g}" for b in boundaries[:6]) + (", ..." if len(boundaries) > 6 else "")
        if kind == "staircase":
            yield (
                f"{target} starts on partial outputs of {names} and is asked again after {chunks} tokens: "
                "this can change its answer, as allowed."
            )
        elif kind == "overlap":
            yield f"{target} reads {names} while they are written and answers once they are whole."
        else:
            yield f"{target} starts as soon as its item of {names} is written ({chunks} tokens)."


def _guess_facts(graph: AgentGraph) -> Iterator[str]:
    guessed = [m.name for m in graph.models if m.guessed]
    guessed += [n.name for n in graph.nodes if isinstance(n.work, LlmCall) and n.work.output.guessed]
    if guessed:
        shown = ", ".join(guessed[:_MAX_SHOWN])
        yield f"Guessed, not measured: {shown}. Run it with --runs and plan again with --observed."


EXPLAINER = AgentsExplainer()
