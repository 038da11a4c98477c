"""What makes an agent graph malformed, with the place of each fault as a path into its text form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from planner.ir.agent_graph import (
    END,
    NUMBER_TESTS,
    START,
    AgentGraph,
    AgentModel,
    Condition,
    Edge,
    LlmCall,
    Nested,
    Node,
    ToolCall,
)

MAX_CALLS = 20_000
_PROBABILITY_SLACK = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFault:
    """A fault: where (keys and indices), what, and the offending value and hint if there are any."""

    path: tuple[str | int, ...]
    message: str
    value: object = ...
    allowed: tuple[str, ...] = ()
    hint: str = ""


def graph_faults(graph: AgentGraph, models: tuple[AgentModel, ...] = ()) -> list[GraphFault]:
    """Return the faults of a graph; `models` are those of the graph around it."""
    known = {m.name: m for m in (*models, *graph.models)}
    found = [*_name_faults(graph), *_edge_faults(graph), *_probability_faults(graph)]
    producers: dict[str, list[str]] = {}
    for edge in graph.edges:
        producers.setdefault(edge.target, []).append(edge.source)
    for node in graph.nodes:
        found += _node_faults(graph, node, producers.get(node.name, []), known)
    found += _cycle_faults(graph)
    if not graph.nodes:
        found.append(GraphFault(path=("nodes",), message="the graph has no nodes"))
    return found


def _name_faults(graph: AgentGraph) -> Iterator[GraphFault]:
    seen: set[str] = set()
    for node in graph.nodes:
        if node.name in seen or node.name in (START, END):
            yield GraphFault(path=("nodes", node.name), message="the name is taken", value=node.name)
        seen.add(node.name)


def _edge_faults(graph: AgentGraph) -> Iterator[GraphFault]:
    names = {n.name for n in graph.nodes}
    for i, edge in enumerate(graph.edges):
        for end, extra in ((edge.source, START), (edge.target, END)):
            if end not in names and end != extra:
                yield GraphFault(
                    path=("edges", i),
                    message="the edge ends at an unknown node",
                    value=end,
                    allowed=tuple(sorted(names)),
                )
        if not 0.0 <= edge.probability <= 1.0:
            yield GraphFault(
                path=("edges", i, "probability"), message="not a probability", value=edge.probability
            )
        if edge.max_rounds is not None and edge.max_rounds < 1:
            yield GraphFault(
                path=("edges", i, "max_rounds"), message="a loop runs at least once", value=edge.max_rounds
            )
        if not edge.kinds:
            yield GraphFault(path=("edges", i, "kinds"), message="no way of flowing is allowed")
        if edge.when is not None and (wrong := _condition_fault(edge.when)):
            yield GraphFault(path=("edges", i, "when"), message=wrong, value=edge.when.value)


def _condition_fault(condition: Condition) -> str:
    """Return what is wrong with the value of a condition, nothing if it can be tested."""
    if condition.test == "matches":
        try:
            re.compile(condition.value)
        except (re.error, OverflowError, RecursionError) as error:
            return f"not a regular expression ({error})"
    if condition.test in NUMBER_TESTS:
        try:
            number = float(condition.value)
        except ValueError:
            return "not a number"
        return "" if math.isfinite(number) else "not a finite number"
    return ""


def _probability_faults(graph: AgentGraph) -> Iterator[GraphFault]:
    """Alternatives of a node (edges taken with a probability) must not exceed 1 together."""
    totals: dict[str, float] = {}
    for i, edge in enumerate(graph.edges):
        if edge.probability < 1.0:
            totals[edge.source] = totals.get(edge.source, 0.0) + edge.probability
            if totals[edge.source] > 1.0 + _PROBABILITY_SLACK and edge.max_rounds is None:
                yield GraphFault(
                    path=("edges", i, "probability"),
                    message=f"the branches of {edge.source!r} add up to more than 1",
                    value=round(totals[edge.source], 9),
                )


def open_branches(graph: AgentGraph, prefix: str = "") -> list[tuple[str, int, float]]:
    """Return (node, number of branches, what is left of 1) of nodes whose branches do not add up to 1.

    Loops and edges without a probability are no branches; nodes of bodies are named by their path.
    """
    totals: dict[str, list[float]] = {}
    for edge in graph.edges:
        if edge.probability < 1.0 and edge.max_rounds is None:
            totals.setdefault(edge.source, []).append(edge.probability)
    looping = {e.source for e in graph.edges if e.max_rounds is not None}
    found = [
        (prefix + name, len(parts), 1.0 - sum(parts))
        for name, parts in totals.items()
        if sum(parts) < 1.0 - _PROBABILITY_SLACK and name not in looping
    ]
    for node in graph.nodes:
        if isinstance(node.work, Nested):
            found += open_branches(node.work.graph, f"{prefix}{node.name}/")
    return found


def bypassed_branches(graph: AgentGraph, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (source, target, other) where a branch may lead past `target` but `other` leads to it anyway.

    A node runs if any way into it is taken, so a producer before the branch makes it run in every case.
    """
    after: dict[str, set[str]] = {}
    for edge in graph.edges:
        after.setdefault(edge.source, set()).add(edge.target)
    found: list[tuple[str, str, str]] = []
    for edge in graph.edges:
        if edge.max_rounds is not None or not _is_branch(edge):
            continue
        behind = _reachable(after, edge.source)
        found += [
            (prefix + edge.source, prefix + edge.target, prefix + other.source)
            for other in graph.edges
            if other.target == edge.target
            and other.source not in (edge.source, START)
            and other.max_rounds is None
            and not _is_branch(other)
            and other.source not in behind
        ]
    for node in graph.nodes:
        if isinstance(node.work, Nested):
            found += bypassed_branches(node.work.graph, f"{prefix}{node.name}/")
    return found


def _is_branch(edge: Edge) -> bool:
    return edge.probability < 1.0 or edge.when is not None


def _reachable(after: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    left = [start]
    while left:
        for name in after.get(left.pop(), ()):
            if name not in seen:
                seen.add(name)
                left.append(name)
    return seen


def _node_faults(
    graph: AgentGraph, node: Node, sources: list[str], models: dict[str, AgentModel]
) -> Iterator[GraphFault]:
    path = ("nodes", node.name)
    producers = sum(source != START for source in sources)
    if node.join is not None and not 1 <= node.join <= max(producers, 1):
        yield GraphFault(
            path=(*path, "join"),
            message=f"the node has {producers} producers",
            value=node.join,
            allowed=("all", "any", f"1 to {max(producers, 1)}"),
        )
    if node.copies < 1 or (node.parallel is not None and node.parallel < 1):
        yield GraphFault(path=path, message="copies and parallel are at least 1")
    if isinstance(node.work, LlmCall):
        yield from _call_faults(graph, node, sources, models)
    if isinstance(node.work, ToolCall) and node.work.limit is not None and node.work.limit < 1:
        yield GraphFault(path=(*path, "limit"), message="a tool runs at least once", value=node.work.limit)
    if isinstance(node.work, Nested):
        for fault in graph_faults(node.work.graph, tuple(models.values())):
            yield GraphFault(
                path=(*path, "graph", *fault.path),
                message=fault.message,
                value=fault.value,
                allowed=fault.allowed,
                hint=fault.hint,
            )


def _call_faults(
    graph: AgentGraph, node: Node, sources: list[str], models: dict[str, AgentModel]
) -> Iterator[GraphFault]:
    call = node.work
    assert isinstance(call, LlmCall)
    path = ("nodes", node.name)
    for name in call.models:
        if name not in models:
            yield GraphFault(
                path=(*path, "models"),
                message="unknown model",
                value=name,
                allowed=tuple(sorted(models)),
                hint="Every model of a call stands under models with its speed or endpoint.",
            )
    if not call.models:
        yield GraphFault(path=(*path, "models"), message="a call needs a model")
    floor = graph.min_quality
    chosen = [models[n] for n in call.models if n in models]
    if floor is not None and chosen and all(m.quality is None or m.quality < floor for m in chosen):
        yield GraphFault(
            path=(*path, "models"),
            message=f"no model of the call reaches the quality {floor:g}",
            value=call.models,
        )
    if not 1 <= call.keep <= call.samples:
        yield GraphFault(path=(*path, "keep"), message=f"keep is 1 to {call.samples}", value=call.keep)
    producers = set(sources)
    for i, part in enumerate(call.prompt):
        if part.kind == "node" and part.source not in producers:
            yield GraphFault(
                path=(*path, "prompt", i),
                message="the prompt takes from a node that no edge leads from",
                value=part.source,
                allowed=tuple(sorted(producers)),
            )


def _cycle_faults(graph: AgentGraph) -> Iterator[GraphFault]:
    """Without its bounded loops the graph must have no cycle."""
    after: dict[str, list[tuple[str, int]]] = {n.name: [] for n in graph.nodes}
    waiting = dict.fromkeys(after, 0)
    for i, edge in enumerate(graph.edges):
        if edge.max_rounds is None and edge.source in after and edge.target in after:
            after[edge.source].append((edge.target, i))
            waiting[edge.target] += 1
    ready = [name for name, count in waiting.items() if count == 0]
    for name in ready:
        for target, _ in after[name]:
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    left = set(after).difference(ready)
    if left:
        # in the order in which people write nodes, the edge that closes the cycle points back
        order = {n.name: i for i, n in enumerate(graph.nodes)}
        inside = sorted((i, name, target) for name in left for target, i in after[name] if target in left)
        index = next((i for i, name, target in inside if order[target] <= order[name]), inside[0][0])
        yield GraphFault(
            path=("edges", index),
            message="a cycle without a bound: " + ", ".join(sorted(left)[:8]),
            hint="Give the edge that points back a max_rounds.",
        )
