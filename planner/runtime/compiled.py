"""A plan made ready to run: its calls and edges by number, with what was decided for each.

The graph comes from the problem that a plan carries, the decisions (models, kinds of flow, chunk
boundaries, times) from its details. A compiled plan is shared by all its runs and never changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, AgentModel, AgentProblem, EdgeKind, LlmCall, Router
from planner.ir.parser import parse_ir
from planner.ir.problem import Problem
from planner.plan.schema import Plan
from planner.plan.serialize import plan_text
from planner.space.agent_drafts import with_drafts
from planner.space.agent_flat import FlatCall, FlatEdge, FlatGraph
from planner.space.agent_flatten import flatten

_ROUND = re.compile(r"@+\d+")
_Entry = dict[str, Any]
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class CallPlan:
    """A call: what it does (`flat`), on which model, when it was planned, its edges by number.

    `base` is its node without the round of a loop. `early` is how many calls of its node are enough
    (best-of-n with early stop; 0: all are wanted). `slack_s` is by how much it may be late without making
    the run later, as planned.
    """

    index: int
    flat: FlatCall
    base: str
    model: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    final: bool
    early: int
    start_s: float
    first_token_s: float
    end_s: float
    prompt_tokens: float
    output_tokens: float
    slack_s: float

    @property
    def is_joint(self) -> bool:
        """Whether the call only stands for several being done."""
        return isinstance(self.flat.work, Router)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgePlan:
    """An edge between two calls by number, how it flows, and in which chunks (cumulative tokens).

    `item` is which item of the producer's list the consumer takes, of `num_items` (None: all of the text).
    """

    index: int
    source: int
    target: int
    kind: EdgeKind
    boundaries: tuple[float, ...]
    flat: FlatEdge
    item: int | None
    num_items: int


@dataclass(frozen=True, kw_only=True)
class CompiledPlan:
    """A plan ready to run; `digest` tells plans apart.

    Where runs differ in models and streams, `routes` are the plans of such runs, each with its share of the
    runs; this one is the commonest of them.
    """

    name: str
    digest: str
    graph: AgentGraph
    calls: tuple[CallPlan, ...]
    edges: tuple[EdgePlan, ...]
    predicted: dict[str, float]
    routes: tuple[tuple[float, CompiledPlan], ...] = ()

    @cached_property
    def by_name(self) -> dict[str, CallPlan]:
        """Calls by name."""
        return {call.flat.name: call for call in self.calls}

    @cached_property
    def by_node(self) -> dict[str, tuple[CallPlan, ...]]:
        """Calls of a node, joints left out."""
        found: dict[str, list[CallPlan]] = {}
        for call in self.calls:
            if not call.flat.name.endswith("/done"):
                found.setdefault(call.flat.node, []).append(call)
        return {node: tuple(calls) for node, calls in found.items()}

    @cached_property
    def models(self) -> dict[str, AgentModel]:
        """Models by name."""
        return {model.name: model for model in self.graph.models}


def compile_plan(plan: Plan) -> CompiledPlan:
    """Return a plan ready to run.

    Raises
    ------
    InputError
        If it is no plan of an agent graph, has no answer, or its details do not fit its graph.
    """
    if plan.kind != "agents":
        raise InputError("only plans of agent graphs run", key="kind", value=plan.kind, allowed="agents")
    if not plan.details.get("calls"):
        raise InputError("the plan has no calls to run", key="details.calls", hint=_no_calls(plan))
    graph = with_drafts(_graph_of(plan), plan.details)
    flat = flatten(graph)
    compiled = _compiled(plan, plan.details, (graph, flat))
    routes = plan.details.get("routes")
    if not isinstance(routes, list):
        return compiled
    parts = [(_share(row), _compiled(plan, row, (graph, flat))) for row in cast("list[_Entry]", routes)]
    return replace(compiled, routes=tuple(parts))


def _share(route: _Entry) -> float:
    share = route.get("share") if isinstance(route, dict) else None  # pyright: ignore[reportUnnecessaryIsInstance] - data from a file
    if not isinstance(share, int | float) or not 0.0 <= share <= 1.0 + _SLACK:
        raise InputError("a route has no share of the runs", key="details.routes", value=share)
    return float(share)


def _compiled(
    plan: Plan, details: Mapping[str, object], graphs: tuple[AgentGraph, FlatGraph]
) -> CompiledPlan:
    """Return the plan whose decisions stand in `details`."""
    graph, flat = graphs
    calls = _planned(details, "calls", "{name}")
    edges = _planned(details, "edges", "{from} -> {to}")
    numbers = {call.name: i for i, call in enumerate(flat.calls)}
    missing = sorted(set(numbers) ^ set(calls))
    if missing:
        raise InputError("the plan's calls are not those of its graph", key="details.calls", value=missing[0])
    edge_plans = tuple(_edge(i, e, numbers, edges) for i, e in enumerate(flat.edges))
    try:
        call_plans = _calls(graph, flat, calls, edge_plans)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"a call of the plan is malformed ({error})", key="details.calls") from None
    return CompiledPlan(
        name=plan.name,
        digest=hashlib.sha256(plan_text(plan).encode()).hexdigest(),
        graph=graph,
        calls=call_plans,
        edges=edge_plans,
        predicted={name: quantity.value for name, quantity in plan.predicted.items()},
    )


def _no_calls(plan: Plan) -> str | None:
    return "The plan says that there is no feasible schedule." if plan.status == "infeasible" else None


def _graph_of(plan: Plan) -> AgentGraph:
    root = parse_ir(plan.problem) if plan.problem else None
    payload = cast("Problem[Any]", root).payload if isinstance(root, Problem) else None
    if not isinstance(payload, AgentProblem):
        raise InputError("the plan does not carry its graph", key="problem")
    return payload.graph


def _planned(details: Mapping[str, object], key: str, name: str) -> dict[str, _Entry]:
    """Return the entries of a list of the plan's details by the name that `name` makes of their fields."""
    rows = details.get(key)
    try:
        return {name.format_map(row): row for row in cast("list[_Entry]", rows)}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"an entry is malformed ({error})", key=f"details.{key}") from None


def _edge(index: int, flat: FlatEdge, numbers: dict[str, int], planned: dict[str, _Entry]) -> EdgePlan:
    row = planned.get(f"{flat.source} -> {flat.target}", {})
    kind = cast("EdgeKind", row.get("kind", "barrier"))
    if kind != "barrier" and kind not in flat.kinds:
        raise InputError(
            "the graph does not allow this flow",
            key=f"details.edges.{flat.source} -> {flat.target}",
            value=kind,
            allowed=", ".join(flat.kinds),
        )
    num_items = round(1 / flat.part) if flat.part < 1.0 else 0
    return EdgePlan(
        index=index,
        source=numbers[flat.source],
        target=numbers[flat.target],
        kind=kind,
        boundaries=tuple(float(b) for b in row.get("boundaries", ())),
        flat=flat,
        item=round(flat.share * num_items) - 1 if num_items else None,
        num_items=num_items,
    )


def _calls(
    graph: AgentGraph, flat: FlatGraph, planned: dict[str, _Entry], edges: tuple[EdgePlan, ...]
) -> tuple[CallPlan, ...]:
    inputs: list[list[int]] = [[] for _ in flat.calls]
    outputs: list[list[int]] = [[] for _ in flat.calls]
    for edge in edges:
        outputs[edge.source].append(edge.index)
        inputs[edge.target].append(edge.index)
    copies: dict[str, int] = {}
    for call in flat.calls:
        if not call.name.endswith("/done"):
            copies[call.node] = copies.get(call.node, 0) + 1
    slacks = _slacks(flat, planned, edges)
    known, finals = {m.name for m in graph.models}, set(flat.finals)
    found: list[CallPlan] = []
    for i, call in enumerate(flat.calls):
        row = planned[call.name]
        model = str(row.get("model", ""))
        if isinstance(call.work, LlmCall) and (model not in known or model not in call.work.models):
            raise InputError(
                "the plan runs the call on a model that it does not allow",
                key=f"details.calls.{call.name}",
                value=model,
                allowed=", ".join(call.work.models),
            )
        found.append(
            CallPlan(
                index=i,
                flat=call,
                base=_ROUND.sub("", call.node),
                model=model,
                inputs=tuple(inputs[i]),
                outputs=tuple(outputs[i]),
                final=call.name in finals,
                early=_early(call, copies),
                start_s=float(row["start_s"]),
                first_token_s=float(row.get("first_token_s", row["end_s"])),
                end_s=float(row["end_s"]),
                prompt_tokens=float(row.get("prompt_tokens", 0.0)),
                output_tokens=float(row.get("output_tokens", 0.0)),
                slack_s=slacks[i],
            )
        )
    return tuple(found)


def _early(call: FlatCall, copies: dict[str, int]) -> int:
    """Return after how many ends of a node's calls the others are not wanted; 0 for never."""
    work = call.work
    if not isinstance(work, LlmCall) or work.keep >= work.samples:
        return 0
    return copies[call.node] // work.samples * work.keep


def _slacks(flat: FlatGraph, planned: dict[str, _Entry], edges: tuple[EdgePlan, ...]) -> list[float]:
    """Return per call by how much it may end later before a final call ends later."""
    ends = [float(planned[c.name]["end_s"]) for c in flat.calls]
    starts = [float(planned[c.name]["start_s"]) for c in flat.calls]
    latest = [max(ends, default=0.0)] * len(ends)
    after: list[list[int]] = [[] for _ in ends]
    for edge in edges:
        after[edge.source].append(edge.target)
    for i in reversed(range(len(ends))):
        for target in after[i]:
            room = latest[target] - ends[target]
            latest[i] = min(latest[i], max(starts[target], ends[i]) + room)
    return [max(last - end, 0.0) for last, end in zip(latest, ends, strict=True)]
