"""A flat agent graph: every call that a run may make, with loops, copies and bodies expanded."""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.agent_graph import Condition, EdgeKind, FailurePolicy, Human, LlmCall, Router, ToolCall

FlatWork = LlmCall | ToolCall | Router | Human


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatCall:
    """One call. `node` is the path of the node it comes from; `group` what shares a limit on copies.

    `join` of the active producers must be ready (None: all). `probability` is that of the call being made.
    """

    name: str
    node: str
    work: FlatWork
    join: int | None = None
    group: str = ""
    parallel: int | None = None
    deadline_s: float | None = None
    probability: float = 1.0
    on_failure: FailurePolicy = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatEdge:
    """An edge between calls, by name. `branch`: one of several alternatives of its source.

    `share` is the part of the producer's output that the consumer reads up to (1 unless item-wise), and
    `part` the part that it reads. `when` and `repeats` are those of the graph's edge.
    """

    source: str
    target: str
    kinds: tuple[EdgeKind, ...]
    probability: float = 1.0
    branch: bool = False
    share: float = 1.0
    part: float = 1.0
    when: Condition | None = None
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatGraph:
    """Calls in an order in which no edge points back, edges, and the calls that end a run."""

    calls: tuple[FlatCall, ...]
    edges: tuple[FlatEdge, ...]
    finals: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """A flat graph with its look-ups: calls by name, edges by target, copies by node."""

    flat: FlatGraph
    calls: dict[str, FlatCall]
    into: dict[str, tuple[FlatEdge, ...]]
    copies: dict[str, tuple[FlatCall, ...]]

    def producers(self, call: FlatCall) -> tuple[FlatEdge, ...]:
        """Return the edges into a call."""
        return self.into.get(call.name, ())


def flow_of(flat: FlatGraph) -> Flow:
    """Return a flat graph with its look-ups."""
    into: dict[str, list[FlatEdge]] = {}
    copies: dict[str, list[FlatCall]] = {}
    for edge in flat.edges:
        into.setdefault(edge.target, []).append(edge)
    for call in flat.calls:
        copies.setdefault(call.node, []).append(call)
    return Flow(
        flat=flat,
        calls={c.name: c for c in flat.calls},
        into={name: tuple(edges) for name, edges in into.items()},
        copies={name: tuple(calls) for name, calls in copies.items()},
    )
