"""Simulates an agent plan: the expected run, and drawn runs for the spread.

The plan's own details (calls, edges, boundaries) and the graph it carries are all that is read.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any, cast

from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, EdgeKind, LlmCall, Node, Tokens, ToolCall
from planner.simulate.agent_job import JobTrace, SimCall, SimEdge, simulate_agent_job

_Entry = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """Figures of one simulated run, seconds."""

    ttft_s: float
    latency_s: float
    trace: JobTrace


def expected_run(graph: AgentGraph, details: dict[str, object]) -> AgentRun:
    """Return the run with every length at its mean."""
    return _run(graph, details, None)


def drawn_runs(graph: AgentGraph, details: dict[str, object], *, num_runs: int, seed: int) -> list[AgentRun]:
    """Return runs with lengths and latencies drawn from their distributions."""
    return [_run(graph, details, random.Random(f"{seed}/{i}")) for i in range(num_runs)]


def agent_report(
    graph: AgentGraph, details: dict[str, object], predicted: dict[str, float], *, num_runs: int, seed: int
) -> dict[str, dict[str, float]]:
    """Return, per figure, the plan's prediction, the expected run's value and quantiles of drawn runs."""
    if not details.get("calls"):
        raise InputError("the plan has no calls to simulate", key="details.calls")
    mean = expected_run(graph, details)
    runs = drawn_runs(graph, details, num_runs=num_runs, seed=seed)
    report: dict[str, dict[str, float]] = {}
    for name, seen, values in (
        ("ttft_s", mean.ttft_s, sorted(r.ttft_s for r in runs)),
        ("latency_s", mean.latency_s, sorted(r.latency_s for r in runs)),
    ):
        quantiles = {f"p{q}": values[min(len(values) * q // 100, len(values) - 1)] for q in (50, 90, 99)}
        report[name] = {"predicted": predicted.get(name, seen), "simulated": seen, **quantiles}
    return report


def _run(graph: AgentGraph, details: dict[str, object], generator: random.Random | None) -> AgentRun:
    entries = cast("list[_Entry]", details["calls"])
    rows = cast("list[_Entry]", details["edges"])
    nodes = {n.name: n for n in graph.nodes}
    written = _brought(entries, rows)
    calls = [_call(graph, nodes, e, written.get(str(e["name"]), 0.0), generator) for e in entries]
    edges = [_edge(row) for row in rows]
    slots = {f"model {m.name}": m.slots * m.replicas for m in graph.models}
    trace = simulate_agent_job(calls, edges, slots)
    finals = [trace.call(str(n)) for n in cast("list[object]", details["finals"])]
    firsts = [f.first_token_s for f in finals if f.first_token_s is not None]
    ends = [f.end_s for f in finals if f.end_s is not None]
    return AgentRun(ttft_s=sum(firsts) / len(firsts), latency_s=max(ends), trace=trace)


def _brought(entries: list[_Entry], rows: list[_Entry]) -> dict[str, float]:
    """Tokens of a call's producers, which the simulation puts into its prompt itself."""
    outputs = {str(e["name"]): float(e.get("output_tokens", 0.0)) for e in entries}
    found: dict[str, float] = {}
    for row in rows:
        if row["kind"] in ("staircase", "overlap"):
            found[str(row["to"])] = found.get(str(row["to"]), 0.0) + outputs[str(row["from"])]
    return found


def _call(
    graph: AgentGraph,
    nodes: dict[str, Node],
    entry: _Entry,
    brought: float,
    generator: random.Random | None,
) -> SimCall:
    name = str(entry["name"])
    node = nodes.get(str(entry["node"]).split("@")[0])
    if "model" not in entry:
        length = float(entry["end_s"]) - float(entry["start_s"])
        spread = node.work.latency.sigma_log if node is not None and isinstance(node.work, ToolCall) else 0.0
        return SimCall(name=name, fixed_s=_drawn(length, spread, generator), priority=float(entry["start_s"]))
    model = graph.model(str(entry["model"]))
    output = float(entry["output_tokens"]) * float(entry["probability"])
    tokens = node.work.output if node is not None and isinstance(node.work, LlmCall) else Tokens(mean=output)
    length = _drawn(output, tokens.sigma_log, generator)
    length = min(length, tokens.limit) if tokens.limit is not None else length
    return SimCall(
        name=name,
        prompt_tokens=max(float(entry["prompt_tokens"]) - brought, 0.0) * float(entry["probability"]),
        output_tokens=max(ceil(length - 1e-9), 1),
        overhead_s=model.overhead_s * float(entry["probability"]),
        prefill_tokens_per_s=model.prefill_tokens_per_s,
        decode_s_per_token=model.decode_s_per_token,
        pool=f"model {model.name}",
        join=None if node is None else node.join,
        priority=float(entry["start_s"]),
        cached=model.cache_block_tokens > 0,
    )


def _edge(row: _Entry) -> SimEdge:
    kind = cast("EdgeKind", row["kind"])
    streams = kind in ("staircase", "overlap")
    return SimEdge(
        source=str(row["from"]),
        target=str(row["to"]),
        kind=kind,
        boundaries=tuple(float(b) for b in row.get("boundaries", ())),
        in_prompt=streams,
    )


def _drawn(mean: float, sigma_log: float, generator: random.Random | None) -> float:
    """Return the mean, or a log-normal draw of that mean."""
    if generator is None or sigma_log <= 0 or mean <= 0:
        return mean
    return exp(generator.gauss(log(mean) - sigma_log**2 / 2, sigma_log))
