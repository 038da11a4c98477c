"""What the runs of an agent graph ask of each model: how many requests, how long they are, how they bunch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from planner.ir.agent_graph import AgentGraph, LlmCall
from planner.plan.schema import Plan
from planner.space.agent_flat import FlatCall, Flow
from planner.space.agent_lower import expected, output_tokens, prompt_tokens
from planner.space.agent_outcomes import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sort of request: tokens of its prompt and answer, and how many a run makes in the mean."""

    prompt_tokens: int
    output_tokens: int
    per_run: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTraffic:
    """Requests to one model.

    `burstiness` is the squared coefficient of variation of their distances if runs begin at random: that of
    a batch Poisson process, E[X^2] / E[X] with X the calls of one node that a run makes at once.
    `prefix_share` is the part of the prompts that is a shared prefix.
    """

    model: str
    requests: tuple[Request, ...]
    burstiness: float
    prefix_share: float

    @property
    def per_run(self) -> float:
        """Requests of a run in the mean."""
        return sum(request.per_run for request in self.requests)


def with_models(graph: AgentGraph, chosen: Mapping[str, str]) -> AgentGraph:
    """Return the graph with the model of every node fixed; nodes of bodies have no choice."""
    nodes = tuple(
        replace(n, work=replace(n.work, models=(chosen[n.name],)))
        if isinstance(n.work, LlmCall) and n.name in chosen
        else n
        for n in graph.nodes
    )
    return replace(graph, nodes=nodes)


def traffic_of(graph: AgentGraph, flow: Flow, chosen: Mapping[str, str]) -> dict[str, ModelTraffic]:
    """Return the traffic of each model that is called; `chosen` is the model of every node of the calls."""
    calls: dict[str, list[FlatCall]] = {}
    for call in flow.flat.calls:
        if isinstance(call.work, LlmCall) and call.probability > 0.0:
            calls.setdefault(chosen[call.node], []).append(call)
    return {model: _traffic(graph, flow, model, made) for model, made in sorted(calls.items())}


def _traffic(graph: AgentGraph, flow: Flow, model: str, calls: list[FlatCall]) -> ModelTraffic:
    sorts: dict[tuple[int, int], float] = {}
    nodes: dict[str, list[float]] = {}
    prompts = shared = 0.0
    for call in calls:
        prompt = prompt_tokens(graph, flow, call)
        key = (max(round(prompt), 1), max(round(output_tokens(call)), 1))
        sorts[key] = sorts.get(key, 0.0) + call.probability
        nodes.setdefault(call.node, []).append(call.probability)
        prompts += call.probability * prompt
        shared += call.probability * min(_prefix_tokens(call), prompt)
    # a node that is made makes all of its copies at once
    squares = sum(len(made) ** 2 * max(made) for made in nodes.values())
    means = sum(len(made) * max(made) for made in nodes.values())
    requests = tuple(
        Request(prompt_tokens=p, output_tokens=o, per_run=count) for (p, o), count in sorted(sorts.items())
    )
    return ModelTraffic(
        model=model,
        requests=requests,
        burstiness=squares / means,
        prefix_share=shared / prompts if prompts > 0.0 else 0.0,
    )


def _prefix_tokens(call: FlatCall) -> float:
    """Return the tokens at the head of a prompt that stand in a shared prefix."""
    total = 0.0
    for part in call.work.prompt if isinstance(call.work, LlmCall) else ():
        if part.kind != "static" or not part.share or part.tokens is None:
            break
        total += expected(part.tokens)
    return total


def latest_end_s(world: World, lengths_s: Mapping[str, float]) -> tuple[float, bool]:
    """Return when an outcome ends if every call waits for its producers, and whether calls keep deadlines.

    `lengths_s` are seconds by call; a join of m producers waits for the m that end first.
    """
    ends: dict[str, float] = {}
    kept = True
    for call in world.flow.flat.calls:
        before = sorted(ends[edge.source] for edge in world.flow.producers(call))
        count = len(before) if call.join is None else min(call.join, len(before))
        start = before[count - 1] if before else 0.0
        ends[call.name] = start + lengths_s[call.name]
        kept = kept and (call.deadline_s is None or ends[call.name] <= call.deadline_s * (1 + 1e-9))
    return max(ends[name] for name in world.flow.flat.finals), kept


def prioritised(fleet: Plan, graph: AgentGraph) -> Plan:
    """Return a graph's fleet that says, if the graph has a priority, that its requests bring one."""
    if not graph.priority:
        return fleet
    return fleet.model_copy(update={"details": {**fleet.details, "request_priorities": True}})
