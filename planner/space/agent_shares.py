"""What one run of an agent graph takes of the things that all runs share: slots, rates and tools.

A call takes a slot for as long as it lasts; it counts once against a rate of calls and with its tokens
against a rate of tokens. All of it is taken in expectation over the outcomes of branches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cost_models.agents.queues import mean_wait_s
from planner.ir.agent_graph import AgentGraph, LlmCall, ToolCall
from planner.ir.scheduling_problem import Mode
from planner.space.agent_flat import FlatCall, Flow, flow_of
from planner.space.agent_lower import (
    RATE_WINDOW_S,
    Lowered,
    output_tokens,
    prompt_tokens,
    speed_of,
    usable_models,
)
from planner.space.agent_outcomes import Combined

Uses = dict[str, float]
"""Units of a shared thing, by its name: seconds of slots and tools, calls or tokens of rates."""


def capacities(graph: AgentGraph, flow: Flow) -> Uses:
    """Return what all runs share, per second: slots, calls, tokens, places of tools."""
    found: Uses = {}
    for model in graph.models:
        found[f"slots {model.name}"] = float(model.slots * model.replicas)
        if model.calls_per_minute is not None:
            found[f"rate {model.name}"] = model.calls_per_minute / RATE_WINDOW_S
        if model.tokens_per_minute is not None:
            found[f"tokens {model.name}"] = model.tokens_per_minute / RATE_WINDOW_S
    for call in flow.flat.calls:
        if isinstance(call.work, ToolCall) and call.work.limit is not None:
            found[f"tool {call.work.tool}"] = float(call.work.limit)
    return found


def uses_of(combined: Combined, waits_s: Uses) -> list[list[Uses]]:
    """Return per task and mode of a combined problem what it takes; `waits_s` are no use of the server."""
    found: list[list[Uses]] = [[{} for _ in task.modes] for task in combined.problem.tasks]
    for part in combined.parts:
        for i, task in enumerate(part.lowered.problem.tasks):
            rows = [_mode_uses(part.lowered, mode, waits_s) for mode in task.modes]
            weight = part.world.weight
            found[part.first + i] = [{name: v * weight for name, v in row.items()} for row in rows]
    return found


def _mode_uses(lowered: Lowered, mode: Mode, waits_s: Uses) -> Uses:
    found: Uses = {}
    for demand in mode.demands:
        name = lowered.problem.resources[demand.resource].name
        sort = name.split(" ", 1)[0]
        if sort in ("slots", "tool"):
            found[name] = max(mode.duration_s - waits_s.get(name, 0.0), 0.0)
        elif sort in ("rate", "tokens"):
            found[name] = float(demand.amount)
    return found


# -- waiting -------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class _Callers:
    """Who calls a server: the longest mean time, the largest spread, and how many of a run call at once."""

    longest_s: float = 0.0
    spread: float = 0.0
    batch: int = 1


def waits_at(graph: AgentGraph, flow: Flow, load: float) -> Uses:
    """Return the mean wait of a call, seconds, by slots or tool, if each is busy for a share of `load`."""
    callers: dict[str, _Callers] = {}
    for level in _levels(flow):
        at_once: dict[str, int] = {}
        for call in level:
            for name, length_s, spread in _services(graph, flow, call):
                own = callers.setdefault(name, _Callers())
                own.longest_s = max(own.longest_s, length_s)
                own.spread = max(own.spread, spread)
                at_once[name] = at_once.get(name, 0) + 1
        for name, count in at_once.items():
            callers[name].batch = max(callers[name].batch, count)
    servers = capacities(graph, flow)
    return {
        name: mean_wait_s(round(servers[name]), load, own.longest_s, own.spread, own.batch)
        for name, own in sorted(callers.items())
    }


def _levels(flow: Flow) -> list[list[FlatCall]]:
    """Return calls by the number of calls on the longest way to them: those of a level may come at once."""
    level: dict[str, int] = {}
    found: list[list[FlatCall]] = []
    for call in flow.flat.calls:
        before = [level[e.source] for e in flow.producers(call)]
        at = level[call.name] = max(before, default=-1) + 1
        found += [[]] if at == len(found) else []
        found[at].append(call)
    return found


def _services(graph: AgentGraph, flow: Flow, call: FlatCall) -> Iterator[tuple[str, float, float]]:
    """Yield (server, mean seconds, squared coefficient of variation) of each way to serve a call."""
    work = call.work
    if isinstance(work, ToolCall) and work.limit is not None:
        yield f"tool {work.tool}", work.latency.mean_s, math.expm1(min(work.latency.sigma_log, 3.0) ** 2)
    if isinstance(work, LlmCall):
        spread = math.expm1(min(work.output.sigma_log, 3.0) ** 2)
        prompt, output = prompt_tokens(graph, flow, call), output_tokens(call)
        for model in usable_models(graph, work):
            yield f"slots {model.name}", speed_of(model).whole_s(prompt, output), spread


def with_waits(graph: AgentGraph, flow: Flow, waits_s: Uses) -> tuple[AgentGraph, Flow]:
    """Return a graph and its calls in which every request waits so long before it is served."""
    if not any(waits_s.values()):
        return graph, flow
    models = tuple(
        replace(m, overhead_s=m.overhead_s + waits_s.get(f"slots {m.name}", 0.0)) for m in graph.models
    )
    calls = tuple(_later(call, waits_s) for call in flow.flat.calls)
    return replace(graph, models=models), flow_of(replace(flow.flat, calls=calls))


def _later(call: FlatCall, waits_s: Uses) -> FlatCall:
    work = call.work
    if not isinstance(work, ToolCall) or not waits_s.get(f"tool {work.tool}"):
        return call
    latency = replace(work.latency, mean_s=work.latency.mean_s + waits_s[f"tool {work.tool}"])
    return replace(call, work=replace(work, latency=latency))
