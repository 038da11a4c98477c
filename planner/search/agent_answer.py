"""What a schedule of an agent graph comes to: expected figures over the outcomes, and the plan's details."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hardware_profiles.provenance import Provenance
from planner.ir.agent_graph import AgentGraph, LlmCall
from planner.ir.candidates import Estimate, Predictions
from planner.ir.scheduling_problem import Run
from planner.search.agent_joint import Stage
from planner.space.agent_flat import FlatCall, FlatGraph
from planner.space.agent_lower import usable_models
from planner.space.agent_outcomes import Part


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """Figures of one run: seconds to the first token of the final calls (their mean) and to the last end."""

    weight: float
    ttft_s: float
    latency_s: float
    usd: float


def run_figures(stage: Stage) -> list[RunFigures]:
    """Return the figures of every outcome; empty without a schedule."""
    return [_figures(part, runs) for part, runs in _parts(stage)]


def expected_figures(figures: list[RunFigures]) -> dict[str, tuple[float, str]]:
    """Return (value, unit) of the expected figures, and quantiles of the end where outcomes differ."""
    values = {
        "ttft_s": (sum(f.weight * f.ttft_s for f in figures), "s"),
        "latency_s": (sum(f.weight * f.latency_s for f in figures), "s"),
        "cost_usd": (sum(f.weight * f.usd for f in figures), "usd"),
    }
    if len(figures) > 1:
        for percent in (50, 90, 99):
            values[f"latency_p{percent}_s"] = (_quantile(figures, percent / 100), "s")
    return values


def estimated(values: dict[str, tuple[float, str]], flat: FlatGraph) -> Predictions:
    """Return (value, unit) by name as predictions; they are assumed where the length of an answer is."""
    guessed = any(isinstance(c.work, LlmCall) and c.work.output.guessed for c in flat.calls)
    provenance = Provenance.ASSUMED if guessed else Provenance.ANALYTICAL
    return tuple(
        (name, Estimate(value=value, unit=unit, provenance=provenance))
        for name, (value, unit) in sorted(values.items())
    )


def _quantile(figures: list[RunFigures], share: float) -> float:
    """Return the least latency that at least this share of the runs keeps."""
    reached = 0.0
    ordered = sorted(figures, key=lambda f: f.latency_s)
    for run in ordered:
        reached += run.weight
        if reached >= share - 1e-9:
            return run.latency_s
    return ordered[-1].latency_s


def _parts(stage: Stage) -> Iterator[tuple[Part, tuple[Run, ...]]]:
    schedule = stage.answer.schedule
    if schedule is None:
        return
    for part in stage.combined.parts:
        yield part, schedule.runs[part.first : part.first + len(part.world.flow.flat.calls)]


def _first_tokens(part: Part, runs: tuple[Run, ...]) -> dict[str, float]:
    return {
        call.name: run.start_s + part.lowered.first_token_s[i][run.mode]
        for i, (call, run) in enumerate(zip(part.world.flow.flat.calls, runs, strict=True))
    }


def _figures(part: Part, runs: tuple[Run, ...]) -> RunFigures:
    flat, firsts = part.world.flow.flat, _first_tokens(part, runs)
    ends = {c.name: r.end_s for c, r in zip(flat.calls, runs, strict=True)}
    return RunFigures(
        weight=part.world.weight,
        ttft_s=sum(firsts[n] for n in flat.finals) / len(flat.finals),
        latency_s=max(ends[n] for n in flat.finals),
        usd=sum(part.lowered.usd[i][r.mode] for i, r in enumerate(runs)),
    )


def plan_details(graph: AgentGraph, flat: FlatGraph, stage: Stage) -> tuple[tuple[str, object], ...]:
    """Return calls, edges and outcomes as plain data: what a runtime and the simulator need.

    Times of a call are means over the outcomes that make it; the outcomes themselves follow where there
    are several.
    """
    if stage.answer.schedule is None:
        return ()
    rows: dict[str, list[tuple[float, _Row]]] = {}
    outcomes: list[dict[str, object]] = []
    for part, runs in _parts(stage):
        made = _rows(part, runs)
        for name, row in made.items():
            rows.setdefault(name, []).append((part.world.weight, row))
        times = {name: [row.start_s, row.first_s, row.end_s] for name, row in made.items()}
        outcomes.append(
            {
                "weight": part.world.weight,
                "finals": list(part.world.flow.flat.finals),
                "calls": times,
                "not_taken": _not_taken(flat, part, made),
            }
        )
    calls = [_entry(graph, call, rows.get(call.name, [])) for call in flat.calls]
    details: list[tuple[str, object]] = [("calls", calls), ("edges", _edges(flat, stage))]
    details.append(("finals", list(flat.finals)))
    return (*details, ("outcomes", outcomes)) if len(outcomes) > 1 else tuple(details)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """One call in one outcome."""

    start_s: float
    first_s: float
    end_s: float
    model: str
    prompt_tokens: float
    output_tokens: float


def _rows(part: Part, runs: tuple[Run, ...]) -> dict[str, _Row]:
    low, firsts = part.lowered, _first_tokens(part, runs)
    return {
        call.name: _Row(
            start_s=run.start_s,
            first_s=firsts[call.name],
            end_s=run.end_s,
            model=low.problem.tasks[i].modes[run.mode].name,
            prompt_tokens=low.prompt_tokens[i],
            output_tokens=low.output_tokens[i],
        )
        for i, (call, run) in enumerate(zip(part.world.flow.flat.calls, runs, strict=True))
    }


def _not_taken(flat: FlatGraph, part: Part, made: dict[str, _Row]) -> list[list[str]]:
    """Return the edges between calls of an outcome that carry nothing in it."""
    taken = {(e.source, e.target) for e in part.world.flow.flat.edges}
    between = {(e.source, e.target) for e in flat.edges if e.source in made and e.target in made}
    return [list(ends) for ends in sorted(between - taken)]


def _entry(graph: AgentGraph, call: FlatCall, rows: list[tuple[float, _Row]]) -> dict[str, object]:
    """Return a call as plain data: the mean of its rows, by weight."""
    total = sum(w for w, _ in rows)

    def mean(values: list[float]) -> float:
        if len(values) < 2:
            return values[0] if values else 0.0
        return sum(w * v for (w, _), v in zip(rows, values, strict=True)) / total

    entry: dict[str, object] = {
        "name": call.name,
        "node": call.node,
        "start_s": mean([r.start_s for _, r in rows]),
        "end_s": mean([r.end_s for _, r in rows]),
        "probability": call.probability,
    }
    if isinstance(call.work, LlmCall):
        # a call that no outcome at hand makes runs on the first model that is good enough
        model = rows[0][1].model if rows else usable_models(graph, call.work)[0].name
        entry |= {
            "model": model,
            "first_token_s": mean([r.first_s for _, r in rows]),
            "prompt_tokens": mean([r.prompt_tokens for _, r in rows]),
            "output_tokens": mean([r.output_tokens for _, r in rows]),
        }
    return entry


def _edges(flat: FlatGraph, stage: Stage) -> list[dict[str, object]]:
    edges: list[dict[str, object]] = []
    streams = stage.streams()
    for edge in flat.edges:
        stream = streams.get(edge.target)
        row: dict[str, object] = {"from": edge.source, "to": edge.target, "kind": "barrier"}
        if stream is not None and edge.source in stream.starts_s:
            row |= {"kind": stream.kind, "boundaries": list(stream.boundaries)}
        edges.append(row)
    return edges
