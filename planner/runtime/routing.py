"""Which edges a finished call takes: conditions on its text, loops before their exits, else-branches last."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from planner.errors import InputError
from planner.ir.agent_graph import Condition, Router
from planner.runtime.bindings import Bindings, Predicate
from planner.runtime.compiled import CallPlan, CompiledPlan, EdgePlan

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_ROUND = re.compile(r"@+\d+|\[\d+\]")
_SLACK = 1e-9


def holds(condition: Condition, text: str) -> bool:
    """Return whether a text meets a condition."""
    return _test(condition, text) != condition.negate


def _test(condition: Condition, text: str) -> bool:
    value = condition.value
    match condition.test:
        case "contains":
            return value in text
        case "matches":
            return re.search(value, text) is not None
        case "equals":
            return text.strip() == value.strip()
        case "longer_than":
            return len(text) > float(value)
        case "at_least" | "at_most":
            found = _NUMBER.findall(text)
            if not found:
                return False
            last = float(found[-1])
            return last >= float(value) if condition.test == "at_least" else last <= float(value)


class Routing:
    """Decides branches of one compiled plan.

    Raises
    ------
    InputError
        If a branch has nothing that could decide it and draws are not asked for, or a predicate is named
        for an edge that does not exist.
    """

    def __init__(self, plan: CompiledPlan, bindings: Bindings) -> None:
        self._plan = plan
        self._predicates = bindings.predicates
        self._names: dict[int, str] = {e.index: _name(plan, e) for e in plan.edges}
        unknown = sorted(set(bindings.predicates) - set(self._names.values()))
        if unknown:
            raise InputError(
                "a predicate for an edge that is not there",
                key="predicates",
                value=unknown[0],
                allowed=", ".join(sorted(set(self._names.values()))[:20]),
            )
        if bindings.routes == "strict":
            for call in plan.calls:
                self._refuse_undecided(call)

    def decided(self, call: CallPlan) -> dict[str, list[int]]:
        """Return the edges of a call that are decided at run time: numbers of the flat edges by name."""
        found: dict[str, list[int]] = {}
        for i in call.outputs:
            edge = self._plan.edges[i]
            if edge.flat.branch or self._is_tested(edge):
                found.setdefault(self._names[i], []).append(i)
        return found

    def taken(self, call: CallPlan, text: str, generator: random.Random) -> set[int]:
        """Return the numbers of the edges that carry data after a call wrote `text`."""
        edges = [self._plan.edges[i] for i in call.outputs]
        if not edges:
            return set()
        again, onward = _split(edges)
        if again:
            verdicts = self._decided(again, text)
            if verdicts is None:
                chance = again[0].flat.probability
                verdicts = {e.index for e in again if generator.random() < chance}
            if verdicts:
                return verdicts
            if _all_else(again, onward):
                return {e.index for e in onward}
        return self._onward(call, onward, text, generator)

    def _onward(
        self, call: CallPlan, edges: Sequence[EdgePlan], text: str, generator: random.Random
    ) -> set[int]:
        tested = [e for e in edges if self._is_tested(e)]
        if tested:
            taken = {e.index for e in tested if self._verdict(e, text)}
            optional = isinstance(call.flat.work, Router)
            for edge in edges:
                if not self._is_tested(edge) and (not taken or not (edge.flat.branch or optional)):
                    taken.add(edge.index)
            return taken
        always = {e.index for e in edges if not e.flat.branch}
        return always | _drawn(self._plan, [e for e in edges if e.flat.branch], generator)

    def _decided(self, edges: Sequence[EdgePlan], text: str) -> set[int] | None:
        if all(self._is_tested(e) for e in edges):
            return {e.index for e in edges if self._verdict(e, text)}
        return {e.index for e in edges} if all(not e.flat.branch for e in edges) else None

    def _is_tested(self, edge: EdgePlan) -> bool:
        return edge.flat.when is not None or self._names[edge.index] in self._predicates

    def _verdict(self, edge: EdgePlan, text: str) -> bool:
        predicate: Predicate | None = self._predicates.get(self._names[edge.index])
        if predicate is not None:
            return bool(predicate(text))
        return edge.flat.when is not None and holds(edge.flat.when, text)

    def _refuse_undecided(self, call: CallPlan) -> None:
        edges = [self._plan.edges[i] for i in call.outputs]
        again, onward = _split(edges)
        open_edges = [e for e in again if e.flat.branch and not self._is_tested(e)]
        if not any(self._is_tested(e) for e in onward) and not (again and _all_else(again, onward)):
            open_edges += [e for e in onward if e.flat.branch]
        if open_edges:
            name = self._names[open_edges[0].index]
            raise InputError(
                "nothing decides at run time whether this branch is taken",
                key=f"edges.{name}",
                value=f"probability {open_edges[0].flat.probability:g}",
                hint="Give the edge a condition (when: {contains: ...}) or a predicate in Python, "
                "or say `routes: sample` beside the endpoints to draw by the probabilities.",
            )


def _name(plan: CompiledPlan, edge: EdgePlan) -> str:
    """Return ``source -> target`` by nodes of the graph, rounds and copies left out."""
    ends = (plan.calls[edge.source], plan.calls[edge.target])
    return " -> ".join(_ROUND.sub("", call.flat.node) for call in ends)


def _split(edges: Sequence[EdgePlan]) -> tuple[list[EdgePlan], list[EdgePlan]]:
    again = [e for e in edges if e.flat.repeats]
    return again, [e for e in edges if not e.flat.repeats]


def _all_else(again: Sequence[EdgePlan], onward: Sequence[EdgePlan]) -> bool:
    """Whether the edges beside a loop's are simply its exits: none has a chance or a test of its own."""
    left = 1.0 - again[0].flat.probability
    return all(
        e.flat.when is None and (not e.flat.branch or abs(e.flat.probability - left) < _SLACK) for e in onward
    )


def _drawn(plan: CompiledPlan, edges: Sequence[EdgePlan], generator: random.Random) -> set[int]:
    """Return the edges to one node, drawn by probability; none with what is left of 1."""
    if not edges:
        return set()
    chances: Mapping[str, float] = {plan.calls[e.target].flat.node: e.flat.probability for e in edges}
    names = [*chances, ""]
    weights = [*chances.values(), max(1.0 - sum(chances.values()), 0.0)]
    chosen = generator.choices(names, weights=weights)[0]
    return {e.index for e in edges if plan.calls[e.target].flat.node == chosen}
