"""Expands an agent graph to calls: bounded loops are unrolled, bodies inlined, copies made.

Round r of a loop is named ``node@r`` (``node@@r`` around another loop), copy i ``node[i]``, a node of a
body ``outer/inner``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from planner.errors import InputError
from planner.ir.agent_graph import END, START, AgentGraph, Edge, LlmCall, Nested, Node, Router, Work
from planner.ir.agent_graph_check import MAX_CALLS
from planner.space.agent_flat import FlatCall, FlatEdge, FlatGraph
from planner.space.agent_reach import with_probabilities

_MAX_DIRECT_EDGES = 64


@dataclass(slots=True, kw_only=True)
class _Work:
    """Nodes and edges while they are rewritten."""

    nodes: dict[str, Node]
    edges: list[Edge]

    def inside(self, edge: Edge) -> bool:
        """Whether both ends are nodes."""
        return edge.source in self.nodes and edge.target in self.nodes


def flatten(graph: AgentGraph) -> FlatGraph:
    """Return the calls of a graph.

    Raises
    ------
    InputError
        If the graph has more calls than can be planned.
    """
    work = _inlined(graph, "")
    _check_size(work.nodes)
    while (loop := _innermost(work)) is not None:
        _unroll(work, loop)
        _check_size(work.nodes)
    return with_probabilities(_copied(work))


def _check_size(nodes: dict[str, Node]) -> None:
    total = sum(n.copies * (n.work.samples if isinstance(n.work, LlmCall) else 1) for n in nodes.values())
    if total > MAX_CALLS:
        raise InputError(
            "the graph has too many calls once loops and copies are expanded",
            key="nodes",
            value=total,
            allowed=f"up to {MAX_CALLS}",
        )


def _inlined(graph: AgentGraph, prefix: str) -> _Work:
    """Nodes of the graph and of the bodies in it; a body is entered and left by routers."""
    work = _Work(nodes={}, edges=[])
    for node in graph.nodes:
        name = prefix + node.name
        if not isinstance(node.work, Nested):
            work.nodes[name] = replace(node, name=name, work=_renamed(node, prefix))
            continue
        for copy in range(node.copies):
            suffix = f"[{copy}]" if node.copies > 1 else ""
            _add_body(work, node, name, suffix)
    ends = {n.name: prefix + n.name for n in graph.nodes}
    bodies = {n.name: n.copies for n in graph.nodes if isinstance(n.work, Nested)}
    for edge in graph.edges:
        sources = _body_ends(edge.source, ends, bodies, "/exit")
        targets = _body_ends(edge.target, ends, bodies, "/enter")
        work.edges += [replace(edge, source=s, target=t) for s in sources for t in targets]
    return work


def _renamed(node: Node, prefix: str) -> Work:
    if not isinstance(node.work, LlmCall) or not prefix:
        return node.work
    parts = tuple(replace(p, source=prefix + p.source) if p.kind == "node" else p for p in node.work.prompt)
    return replace(node.work, prompt=parts)


def _body_ends(name: str, ends: dict[str, str], bodies: dict[str, int], side: str) -> list[str]:
    full = ends.get(name, name)
    if name not in bodies:
        return [full]
    count = bodies[name]
    return [f"{full}[{i}]{side}" if count > 1 else f"{full}{side}" for i in range(count)]


def _add_body(work: _Work, node: Node, name: str, suffix: str) -> None:
    assert isinstance(node.work, Nested)
    inner = _inlined(node.work.graph, f"{name}{suffix}/")
    enter, leave = f"{name}{suffix}/enter", f"{name}{suffix}/exit"
    work.nodes[enter] = Node(name=enter, work=Router(), join=node.join)
    work.nodes |= inner.nodes
    work.nodes[leave] = Node(name=leave, work=Router(), deadline_s=node.deadline_s)
    targets = {e.target for e in inner.edges if e.max_rounds is None}
    sources = {e.source for e in inner.edges if e.max_rounds is None}
    for edge in inner.edges:
        source = enter if edge.source == START else edge.source
        work.edges.append(replace(edge, source=source, target=leave if edge.target == END else edge.target))
    work.edges += [Edge(source=enter, target=n) for n in inner.nodes if n not in targets]
    work.edges += [Edge(source=n, target=leave) for n in inner.nodes if n not in sources]


# -- loops ---------------------------------------------------------------------------------------


def _innermost(work: _Work) -> Edge | None:
    """Return the loop with the smallest body."""
    loops = [e for e in work.edges if e.max_rounds is not None]
    return min(loops, key=lambda e: len(_body(work, e)), default=None)


def _body(work: _Work, loop: Edge) -> set[str]:
    """Nodes on a way from the loop's first node to its last."""
    forward = _reached(work, loop.target, "target")
    backward = _reached(work, loop.source, "source")
    return (forward & backward) | {loop.target, loop.source}


def _reached(work: _Work, start: str, side: str) -> set[str]:
    after: dict[str, list[str]] = {}
    for edge in work.edges:
        if edge.max_rounds is None and work.inside(edge):
            pair = (edge.source, edge.target) if side == "target" else (edge.target, edge.source)
            after.setdefault(pair[0], []).append(pair[1])
    seen, open_nodes = {start}, [start]
    while open_nodes:
        for name in after.get(open_nodes.pop(), []):
            if name not in seen:
                seen.add(name)
                open_nodes.append(name)
    return seen


def _unroll(work: _Work, loop: Edge) -> None:
    """Replace a loop by its rounds: the next round starts with the loop's probability."""
    body, rounds = _body(work, loop), loop.max_rounds or 1
    if len(body) * rounds + len(work.nodes) > MAX_CALLS:
        raise InputError(
            "the loop expands to too many calls",
            key="max_rounds",
            value=rounds,
            allowed=f"up to {MAX_CALLS} calls in all",
        )
    inner = [e for e in work.edges if e is not loop and e.source in body and e.target in body]
    leaving = [e for e in work.edges if e is not loop and e.source in body and e.target not in body]
    rest = [e for e in work.edges if e is not loop and e.source not in body]
    mark = _free_mark(work, body, rounds)
    edges = list(rest)
    nodes = {name: node for name, node in work.nodes.items() if name not in body}
    for r in range(1, rounds + 1):
        names = {n: n if r == 1 else f"{n}{mark}{r}" for n in body}
        nodes |= {names[n]: _round(work.nodes[n], names) for n in work.nodes if n in body}
        last = r == rounds
        for edge in (*inner, *leaving):
            source, target = names[edge.source], names.get(edge.target, edge.target)
            probability = _exit_probability(edge, loop, last=last)
            edges.append(replace(edge, source=source, target=target, probability=probability))
        if not last:
            edges.append(
                replace(
                    loop,
                    source=names[loop.source],
                    target=f"{loop.target}{mark}{r + 1}",
                    max_rounds=None,
                    repeats=True,
                )
            )
    work.nodes, work.edges = nodes, edges


def _free_mark(work: _Work, body: set[str], rounds: int) -> str:
    """Return as many @ as keep the names of this loop's rounds apart from those of loops inside it."""
    mark = "@"
    while any(f"{n}{mark}{r}" in work.nodes for n in body for r in range(2, rounds + 1)):
        mark += "@"
    return mark


def _round(node: Node, names: dict[str, str]) -> Node:
    renamed = replace(node, name=names[node.name])
    if not isinstance(node.work, LlmCall):
        return renamed
    parts = tuple(
        replace(p, source=names.get(p.source, p.source)) if p.source else p for p in node.work.prompt
    )
    return replace(renamed, work=replace(node.work, prompt=parts))


def _exit_probability(edge: Edge, loop: Edge, *, last: bool) -> float:
    """Return the probability of an edge beside the loop's: what that leaves; in the last round all."""
    if edge.source != loop.source or loop.probability >= 1.0:
        return edge.probability
    left = 1.0 - loop.probability
    if edge.probability < 1.0:
        return min(edge.probability / left, 1.0) if last else edge.probability
    return 1.0 if last else left


# -- copies --------------------------------------------------------------------------------------


def _copied(work: _Work) -> FlatGraph:
    """Make the copies of every node and connect them; many to many goes through a joint."""
    calls: dict[str, FlatCall] = {}
    instances: dict[str, list[str]] = {}
    joints: dict[str, str] = {}
    for name, node in work.nodes.items():
        instances[name] = _instances(calls, name, node)
    edges: list[FlatEdge] = []
    incoming: dict[str, set[str]] = {}
    branching = {e.source for e in work.edges if e.probability < 1.0}
    for edge in work.edges:
        if not work.inside(edge):
            continue
        incoming.setdefault(edge.target, set()).add(edge.source)
        sources, targets = instances[edge.source], instances[edge.target]
        items = "items" in edge.kinds and len(sources) == 1 and len(targets) > 1
        streams = "staircase" in edge.kinds and len(targets) == 1
        node = work.nodes[edge.source]
        partial = isinstance(node.work, LlmCall) and node.work.keep < node.work.samples
        if len(sources) > 1 and (
            partial or not (streams or len(sources) * len(targets) <= _MAX_DIRECT_EDGES)
        ):
            sources = [_joint(calls, edges, joints, edge.source, sources, node)]
        for i, target in enumerate(targets):
            share = (i + 1) / len(targets) if items else 1.0
            edges += [
                FlatEdge(
                    source=source,
                    target=target,
                    kinds=edge.kinds,
                    probability=edge.probability,
                    branch=edge.source in branching and edge.probability < 1.0,
                    share=share,
                    part=1.0 / len(targets) if items else 1.0,
                    when=edge.when,
                    repeats=edge.repeats,
                )
                for source in sources
            ]
    ending = [e.source for e in work.edges if e.target == END and e.source in work.nodes]
    leaving = {e.source for e in work.edges if work.inside(e)}
    last = dict.fromkeys([*ending, *(n for n in work.nodes if n not in leaving)])
    finals = [i for name in last for i in instances[name]]
    return FlatGraph(calls=_ordered(calls, edges), edges=tuple(edges), finals=tuple(finals))


def _instances(calls: dict[str, FlatCall], name: str, node: Node) -> list[str]:
    samples = node.work.samples if isinstance(node.work, LlmCall) else 1
    count = node.copies * samples
    assert not isinstance(node.work, Nested)
    made: list[str] = []
    for i in range(count):
        full = f"{name}[{i}]" if count > 1 else name
        calls[full] = FlatCall(
            name=full,
            node=name,
            work=node.work,
            join=node.join,
            group=name if node.parallel is not None else "",
            parallel=node.parallel,
            deadline_s=node.deadline_s,
            on_failure=node.on_failure,
        )
        made.append(full)
    return made


def _joint(
    calls: dict[str, FlatCall],
    edges: list[FlatEdge],
    joints: dict[str, str],
    name: str,
    sources: Iterable[str],
    node: Node,
) -> str:
    """Return the call that stands for enough of the copies being done."""
    if name in joints:
        return joints[name]
    joint = joints[name] = f"{name}/done"
    keep = None
    if isinstance(node.work, LlmCall) and node.work.keep < node.work.samples:
        keep = node.work.keep * node.copies
    calls[joint] = FlatCall(name=joint, node=name, work=Router(), join=keep)
    edges += [FlatEdge(source=s, target=joint, kinds=("barrier",)) for s in sources]
    return joint


def _ordered(calls: dict[str, FlatCall], edges: list[FlatEdge]) -> tuple[FlatCall, ...]:
    waiting = dict.fromkeys(calls, 0)
    after: dict[str, list[str]] = {}
    for edge in edges:
        waiting[edge.target] += 1
        after.setdefault(edge.source, []).append(edge.target)
    order = [name for name, count in waiting.items() if count == 0]
    for name in order:
        for target in after.get(name, []):
            waiting[target] -= 1
            if waiting[target] == 0:
                order.append(target)
    return tuple(calls[name] for name in order)
