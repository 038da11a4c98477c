"""Simulates an agent plan: the expected run, and drawn runs for the spread.

The plan's own details (calls, edges, boundaries) and the graph it carries are all that is read. Branches
are drawn as well: a run makes the calls that its branches lead to, no others.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import ceil, exp, log
from typing import Any, cast

from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, AgentModel, EdgeKind, LlmCall, ToolCall
from planner.simulate.agent_job import JobTrace, SimCall, SimEdge, simulate_agent_job
from planner.simulate.agent_pools import Hold
from planner.space.agent_drafts import with_drafts
from planner.space.agent_flat import FlatCall, Flow, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_lower import RATE_WINDOW_S, prompt_tokens, rate_tokens
from planner.space.agent_reach import Outcome, Reach, outcomes

_Entry = dict[str, Any]
_MAX_OUTCOMES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRun:
    """Figures of one simulated run, seconds."""

    ttft_s: float
    latency_s: float
    trace: JobTrace


def expected_run(graph: AgentGraph, details: dict[str, object]) -> AgentRun:
    """Return the run with every length at its mean; its figures are means over the outcomes of branches.

    The trace is that of the likeliest outcome.
    """
    flat = flatten(graph)
    found, _ = outcomes(flat, most=_MAX_OUTCOMES)
    runs = [(o.weight, SimulatedGraph(graph, details, o).run(None)) for o in found]
    total = sum(w for w, _ in runs)
    return AgentRun(
        ttft_s=sum(w * r.ttft_s for w, r in runs) / total,
        latency_s=sum(w * r.latency_s for w, r in runs) / total,
        trace=max(runs, key=lambda pair: pair[0])[1].trace,
    )


def drawn_runs(graph: AgentGraph, details: dict[str, object], *, num_runs: int, seed: int) -> list[AgentRun]:
    """Return runs with branches, lengths and latencies drawn from their distributions."""
    reach = Reach(flatten(graph))
    found: list[AgentRun] = []
    for i in range(num_runs):
        generator = random.Random(f"{seed}/{i}")
        outcome = reach.outcome(1.0, *reach.made(reach.draw(generator)))
        found.append(SimulatedGraph(graph, details, outcome).run(generator))
    return found


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


class SimulatedGraph:
    """One outcome of a plan's branches, ready to be simulated."""

    def __init__(self, graph: AgentGraph, details: dict[str, object], outcome: Outcome) -> None:
        self.graph = with_drafts(graph, details)
        self.flow: Flow = flow_of(outcome.graph)
        self.entries = {str(e["name"]): e for e in cast("list[_Entry]", details["calls"])}
        rows = cast("list[_Entry]", details["edges"])
        self.rows = {(str(r["from"]), str(r["to"])): r for r in rows}
        self.sizes: dict[str, int] = {}
        missing = [c.name for c in outcome.graph.calls if c.name not in self.entries]
        if missing:
            raise InputError("the plan lacks a call of its graph", key="details.calls", value=missing[0])

    def run(self, generator: random.Random | None) -> AgentRun:
        """Simulate it at mean lengths, or at drawn ones."""
        flat = self.flow.flat
        trace = simulate_agent_job(*self.calls(generator), self.sizes)
        by_name = {c.name: c for c in trace.calls}
        finals = [by_name[name] for name in flat.finals]
        firsts = [f.first_token_s for f in finals if f.first_token_s is not None]
        ends = [f.end_s for f in finals if f.end_s is not None]
        if not ends:
            raise unfinished()
        return AgentRun(ttft_s=sum(firsts) / len(firsts), latency_s=max(ends), trace=trace)

    def calls(self, generator: random.Random | None) -> tuple[list[SimCall], list[SimEdge]]:
        """Return its calls and edges, at mean lengths or at drawn ones."""
        flat, brought = self.flow.flat, self._brought()
        calls = [self._call(call, brought.get(call.name, 0.0), generator) for call in flat.calls]
        return calls, [_edge(e.source, e.target, self._row(e.source, e.target)) for e in flat.edges]

    def _row(self, source: str, target: str) -> _Entry:
        return self.rows.get((source, target), {"kind": "barrier"})

    def _brought(self) -> dict[str, float]:
        """Tokens of a call's producers, which the simulation puts into its prompt itself."""
        found: dict[str, float] = {}
        for edge in self.flow.flat.edges:
            if self._row(edge.source, edge.target)["kind"] in ("staircase", "overlap"):
                tokens = float(self.entries[edge.source].get("output_tokens", 0.0))
                found[edge.target] = found.get(edge.target, 0.0) + tokens
        return found

    def _call(self, call: FlatCall, brought: float, generator: random.Random | None) -> SimCall:
        entry, work = self.entries[call.name], call.work
        holds = self._shared(call)
        priority = float(entry["start_s"])
        if not isinstance(work, LlmCall):
            latency = getattr(work, "latency", None)
            mean_s, spread = (0.0, 0.0) if latency is None else (latency.mean_s, latency.sigma_log)
            length_s = _drawn(mean_s, spread, generator)
            return SimCall(
                name=call.name, fixed_s=length_s, priority=priority, join=call.join, holds=tuple(holds)
            )
        model = self.graph.model(str(entry["model"]))
        length = _drawn(float(entry["output_tokens"]), work.output.sigma_log, generator)
        length = min(length, work.output.limit) if work.output.limit is not None else length
        prompt = prompt_tokens(self.graph, self.flow, call)
        self.sizes[f"model {model.name}"] = model.slots * model.replicas
        return SimCall(
            name=call.name,
            prompt_tokens=max(prompt - brought, 0.0),
            output_tokens=max(ceil(length - 1e-9), 1),
            overhead_s=model.overhead_s,
            prefill_tokens_per_s=model.prefill_tokens_per_s,
            decode_s_per_token=model.decode_s_per_token,
            pool=f"model {model.name}",
            holds=(*holds, *self._rates(model, prompt + length)),
            join=call.join,
            priority=priority,
            cached=model.cache_block_tokens > 0,
        )

    def _shared(self, call: FlatCall) -> list[Hold]:
        """Return what a call takes besides its model: its place among copies, and among users of a tool."""
        holds: list[Hold] = []
        if call.parallel is not None:
            self.sizes[f"copies of {call.group}"] = call.parallel
            holds.append(Hold(pool=f"copies of {call.group}"))
        if isinstance(call.work, ToolCall) and call.work.limit is not None:
            self.sizes[f"tool {call.work.tool}"] = call.work.limit
            holds.append(Hold(pool=f"tool {call.work.tool}"))
        return holds

    def _rates(self, model: AgentModel, tokens: float) -> list[Hold]:
        holds: list[Hold] = []
        if model.calls_per_minute is not None:
            self.sizes[f"rate {model.name}"] = model.calls_per_minute
            holds.append(Hold(pool=f"rate {model.name}", for_s=RATE_WINDOW_S))
        if model.tokens_per_minute is not None:
            limit = self.sizes[f"tokens {model.name}"] = model.tokens_per_minute
            amount = min(rate_tokens(tokens), limit)
            holds.append(Hold(pool=f"tokens {model.name}", amount=amount, for_s=RATE_WINDOW_S))
        return holds


def unfinished() -> InputError:
    """Return the error that nothing that ends a run is ever reached."""
    return InputError("no call that ends the run can ever run", key="details")


def _edge(source: str, target: str, row: _Entry) -> SimEdge:
    kind = cast("EdgeKind", row["kind"])
    return SimEdge(
        source=source,
        target=target,
        kind=kind,
        boundaries=tuple(float(b) for b in row.get("boundaries", ())),
        in_prompt=kind in ("staircase", "overlap"),
    )


def _drawn(mean: float, sigma_log: float, generator: random.Random | None) -> float:
    """Return the mean, or a log-normal draw of that mean."""
    if generator is None or sigma_log <= 0 or mean <= 0:
        return mean
    return exp(generator.gauss(log(mean) - sigma_log**2 / 2, sigma_log))
