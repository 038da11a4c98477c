"""Probabilities of calls: which are made, over the joint outcomes of all branches.

Branches of one call exclude each other; those of different calls are independent. Up to a few
thousand joint outcomes are enumerated, more are sampled with a fixed seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from math import prod

from planner.space.agent_flat import FlatEdge, FlatGraph

_MAX_OUTCOMES = 4096
_NUM_SAMPLES = 4096
_Choice = tuple[float, int | None]


def branches(graph: FlatGraph) -> dict[str, list[_Choice]]:
    """Return, per call with branches, (probability, index of the edge taken or None for none of them)."""
    found: dict[str, list[_Choice]] = {}
    for i, edge in enumerate(graph.edges):
        if edge.branch:
            found.setdefault(edge.source, []).append((edge.probability, i))
    for choices in found.values():
        left = 1.0 - sum(p for p, _ in choices)
        if left > 1e-9:
            choices.append((left, None))
    return _merged(graph, found)


def _merged(graph: FlatGraph, found: dict[str, list[_Choice]]) -> dict[str, list[_Choice]]:
    """Branches to several copies of one node are one alternative: the first edge stands for all."""
    nodes = {c.name: c.node for c in graph.calls}
    merged: dict[str, list[_Choice]] = {}
    for source, choices in found.items():
        seen: dict[str, _Choice] = {}
        for probability, index in choices:
            key = "" if index is None else nodes[graph.edges[index].target]
            seen.setdefault(key, (probability, index))
        total = sum(p for k, (p, _) in seen.items() if k)
        kept = [c for k, c in seen.items() if k]
        if total < 1.0 - 1e-9:
            kept.append((1.0 - total, None))
        merged[source] = kept
    return merged


def active_calls(graph: FlatGraph, taken: dict[str, int | None]) -> tuple[set[str], list[FlatEdge]]:
    """Return the calls that run and the edges that carry data when branches go as `taken` says."""
    nodes = {c.name: c.node for c in graph.calls}
    into: dict[str, list[tuple[int, FlatEdge]]] = {}
    for i, edge in enumerate(graph.edges):
        into.setdefault(edge.target, []).append((i, edge))
    active: set[str] = set()
    used: list[FlatEdge] = []
    for call in graph.calls:
        edges = into.get(call.name, [])
        live = [e for i, e in edges if e.source in active and _is_taken(graph, taken, nodes, i, e)]
        if live or not edges:
            active.add(call.name)
            used += live
    return active, used


def _is_taken(
    graph: FlatGraph, taken: dict[str, int | None], nodes: dict[str, str], index: int, edge: FlatEdge
) -> bool:
    if not edge.branch or edge.source not in taken:
        return True
    chosen = taken[edge.source]
    return chosen is not None and nodes[graph.edges[chosen].target] == nodes[graph.edges[index].target]


def with_probabilities(graph: FlatGraph) -> FlatGraph:
    """Return the graph with the probability of every call filled in."""
    options = branches(graph)
    if not options:
        return graph
    totals: dict[str, float] = {}
    for weight, taken in _outcomes(options):
        for name in active_calls(graph, taken)[0]:
            totals[name] = totals.get(name, 0.0) + weight
    calls = tuple(replace(c, probability=min(totals.get(c.name, 0.0), 1.0)) for c in graph.calls)
    return replace(graph, calls=calls)


def _outcomes(options: dict[str, list[_Choice]]) -> Iterator[tuple[float, dict[str, int | None]]]:
    names = sorted(options)
    if prod(len(options[n]) for n in names) <= _MAX_OUTCOMES:
        for picks in product(*(options[n] for n in names)):
            weight = prod(p for p, _ in picks)
            yield weight, {n: index for n, (_, index) in zip(names, picks, strict=True)}
        return
    generator = random.Random(0)
    for _ in range(_NUM_SAMPLES):
        yield 1.0 / _NUM_SAMPLES, draw_branches(options, generator)


def draw_branches(options: dict[str, list[_Choice]], generator: random.Random) -> dict[str, int | None]:
    """Return one outcome of all branches."""
    return {
        name: generator.choices([i for _, i in choices], weights=[p for p, _ in choices])[0]
        for name, choices in sorted(options.items())
    }
