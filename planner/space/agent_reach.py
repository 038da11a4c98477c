"""Which calls a run makes: probabilities of calls, and the outcomes that differ, over all branches.

Branches of one call exclude each other; those of different calls are independent. Up to a few
thousand joint outcomes are enumerated, more are sampled with a fixed seed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import prod

from planner.space.agent_flat import FlatCall, FlatEdge, FlatGraph

_MAX_OUTCOMES = 4096
_MIN_SAMPLES = 256
_MAX_WALKED_CALLS = 2_000_000
_Choice = tuple[float, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One way in which the branches can go: its weight, the calls made then and the edges taken.

    `graph` holds those calls, each certain; a join waits for at most the producers that there are.
    """

    weight: float
    graph: FlatGraph


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


class Reach:
    """Follows branches through one graph."""

    def __init__(self, graph: FlatGraph) -> None:
        self.graph = graph
        self.options = branches(graph)
        number = {c.name: i for i, c in enumerate(graph.calls)}
        nodes = [c.node for c in graph.calls]
        self._into: list[list[tuple[int, int]]] = [[] for _ in graph.calls]
        self._alternative: dict[int, str] = {}
        for i, edge in enumerate(graph.edges):
            self._into[number[edge.target]].append((i, number[edge.source]))
            if edge.branch and edge.source in self.options:
                self._alternative[i] = nodes[number[edge.target]]

    def made(self, taken: dict[str, int | None]) -> tuple[list[bool], list[int]]:
        """Return which calls are made and the edges that carry data when branches go as `taken` says."""
        edges = self.graph.edges
        chosen = {s: None if i is None else self._alternative[i] for s, i in taken.items()}
        active = [False] * len(self.graph.calls)
        used: list[int] = []
        for call, into in enumerate(self._into):
            live = [
                i
                for i, source in into
                if active[source]
                and (i not in self._alternative or chosen[edges[i].source] == self._alternative[i])
            ]
            active[call] = bool(live) or not into
            used += live
        return active, used

    def draw(self, generator: random.Random) -> dict[str, int | None]:
        """Return one outcome of all branches."""
        return {
            name: generator.choices([i for _, i in choices], weights=[p for p, _ in choices])[0]
            for name, choices in sorted(self.options.items())
        }

    def joint(self) -> Iterator[tuple[float, dict[str, int | None]]]:
        """Yield (weight, branches taken): every joint outcome, or samples where there are too many."""
        names = sorted(self.options)
        if prod(len(self.options[n]) for n in names) <= self._most():
            for picks in product(*(self.options[n] for n in names)):
                weight = prod(p for p, _ in picks)
                yield weight, {n: index for n, (_, index) in zip(names, picks, strict=True)}
            return
        generator = random.Random(0)
        for _ in range(self._most()):
            yield 1.0 / self._most(), self.draw(generator)

    @property
    def is_sampled(self) -> bool:
        """Whether there are too many joint outcomes to see them all."""
        return prod(len(choices) for choices in self.options.values()) > self._most()

    def _most(self) -> int:
        size = max(len(self.graph.calls) + len(self.graph.edges), 1)
        return min(max(_MAX_WALKED_CALLS // size, _MIN_SAMPLES), _MAX_OUTCOMES)

    def outcome(self, weight: float, active: list[bool], used: list[int]) -> Outcome:
        """Return what a run consists of when these calls are made."""
        edges = tuple(replace(self.graph.edges[i], branch=False, probability=1.0) for i in used)
        producers: dict[str, int] = {}
        for edge in edges:
            producers[edge.target] = producers.get(edge.target, 0) + 1
        calls = tuple(
            _certain(call, producers.get(call.name, 0))
            for call, is_made in zip(self.graph.calls, active, strict=True)
            if is_made
        )
        return Outcome(
            weight=weight, graph=FlatGraph(calls=calls, edges=edges, finals=_finals(self.graph, calls, edges))
        )


def _certain(call: FlatCall, num_producers: int) -> FlatCall:
    join = None if call.join is None or call.join >= num_producers else call.join
    return replace(call, probability=1.0, join=join)


def _finals(graph: FlatGraph, calls: tuple[FlatCall, ...], edges: tuple[FlatEdge, ...]) -> tuple[str, ...]:
    """Return the final calls that are made; if there are none, those that nothing follows."""
    made = {c.name for c in calls}
    finals = tuple(name for name in graph.finals if name in made)
    followed = {e.source for e in edges}
    return finals or tuple(c.name for c in calls if c.name not in followed)


def with_probabilities(graph: FlatGraph) -> FlatGraph:
    """Return the graph with the probability of every call filled in."""
    reach = Reach(graph)
    if not reach.options:
        return graph
    totals = [0.0] * len(graph.calls)
    for weight, taken in reach.joint():
        for i, is_made in enumerate(reach.made(taken)[0]):
            totals[i] += weight * is_made
    calls = tuple(replace(c, probability=min(t, 1.0)) for c, t in zip(graph.calls, totals, strict=True))
    return replace(graph, calls=calls)


def likeliest(graph: FlatGraph, *, most: int) -> list[Outcome]:
    """Return the likeliest outcomes that differ, at most so many, with their own weights.

    None where there are too many to know their weights.
    """
    reach = Reach(graph)
    if reach.is_sampled:
        return []
    return [reach.outcome(*row) for row in _different(reach)[:most]]


def certain(graph: FlatGraph) -> FlatGraph:
    """Return the calls that every run makes and the edges that each takes; its final calls may be fewer.

    A join that need not wait for all is left without producers if some of them may be missing.
    """
    sources: dict[str, list[FlatEdge]] = {call.name: [] for call in graph.calls}
    for edge in graph.edges:
        sources[edge.target].append(edge)
    made: set[str] = set()
    edges: list[FlatEdge] = []
    for call in graph.calls:
        into = sources[call.name]
        sure = [e for e in into if not e.branch and e.source in made]
        if sure or not into:
            made.add(call.name)
            edges += sure if call.join is None or len(sure) == len(into) else []
    counts = Counter(e.target for e in edges)
    calls = tuple(_certain(call, counts[call.name]) for call in graph.calls if call.name in made)
    finals = tuple(name for name in graph.finals if name in made)
    return FlatGraph(calls=calls, edges=tuple(edges), finals=finals)


def _different(reach: Reach) -> list[tuple[float, list[bool], list[int]]]:
    """Return (weight, calls made, edges taken) of the outcomes that differ, the likeliest first."""
    found: dict[tuple[int, ...], tuple[float, list[bool], list[int]]] = {}
    for weight, taken in reach.joint():
        active, used = reach.made(taken)
        key = (*used, -1, *(i for i, is_made in enumerate(active) if is_made))
        found[key] = (found[key][0] + weight if key in found else weight, active, used)
    return sorted(found.values(), key=lambda row: -row[0])


def outcomes(graph: FlatGraph, *, most: int) -> tuple[list[Outcome], bool]:
    """Return the outcomes that differ in what is done, the likeliest first, and whether they are all.

    Of more than `most`, so many are drawn systematically and weigh the same: an estimate, not the whole.
    """
    reach = Reach(graph)
    rows = _different(reach)
    complete = not reach.is_sampled and len(rows) <= most
    if len(rows) > most:
        rows = _drawn(rows, most)
    return [reach.outcome(*row) for row in rows], complete


def _drawn(
    rows: list[tuple[float, list[bool], list[int]]], count: int
) -> list[tuple[float, list[bool], list[int]]]:
    """Return rows drawn at equal steps of the total weight; a row hit twice weighs twice."""
    sums = list(accumulate(row[0] for row in rows))
    hits: dict[int, int] = {}
    at = 0
    for k in range(count):
        mark = (k + 0.5) / count * sums[-1]
        while sums[at] < mark and at < len(rows) - 1:
            at += 1
        hits[at] = hits.get(at, 0) + 1
    return [(n / count, rows[i][1], rows[i][2]) for i, n in hits.items()]
