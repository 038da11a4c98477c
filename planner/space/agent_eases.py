"""What streaming could give a consumer at the very best, over every choice of models: for lower bounds.

Each number is the least over the choices on its own, so no plan does better; a schedule that rests on
them all at once need not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from planner.ir.agent_graph import AgentGraph, AgentProblem, LlmCall
from planner.space.agent_flat import FlatCall, FlatEdge, Flow
from planner.space.agent_gains import gaining_stream, may_stream
from planner.space.agent_lower import Ease, Spell, output_tokens, speed_of, usable_models
from planner.space.agent_streams import Stream

_MAX_CHOICES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A consumer, its edges that may stream and the models that each end may use."""

    call: FlatCall
    edges: list[FlatEdge]
    models: dict[str, list[str]]


def eases_of(payload: AgentProblem, flow: Flow, names: Iterable[str]) -> dict[str, Ease]:
    """Return the best that streaming could do for each of some consumers that could gain by it."""
    found: dict[str, Ease] = {}
    for name in names:
        call = flow.calls[name]
        edges = may_stream(flow, call)
        if not edges:
            continue
        ends = [call, *(flow.calls[e.source] for e in edges)]
        models = {c.name: _models(payload.graph, c) for c in ends if isinstance(c.work, LlmCall)}
        case = _Case(call=call, edges=edges, models=models)
        few = math.prod(len(m) for m in models.values()) <= _MAX_CHOICES
        ease = _least(payload, flow, case) if few else _floor(payload, flow, case)
        if ease is not None:
            found[call.name] = ease
    return found


def _models(graph: AgentGraph, call: FlatCall) -> list[str]:
    return [m.name for m in usable_models(graph, call.work)] if isinstance(call.work, LlmCall) else []


def _least(payload: AgentProblem, flow: Flow, case: _Case) -> Ease | None:
    """Return the least over every choice of models, None if none streams."""
    names = list(case.models)
    own: dict[str, list[Stream]] = {}
    for chosen in product(*case.models.values()):
        fixed = dict(zip(names, chosen, strict=True))
        stream = gaining_stream(payload, flow, case.call, fixed)
        if stream is not None:
            own.setdefault(fixed.get(case.call.name, ""), []).append(stream)
    streams = [s for group in own.values() for s in group]
    if not streams:
        return None
    spells = {
        model: Spell(
            first_token_s=min(s.first_token_s for s in group),
            duration_s=min(s.duration_s for s in group),
            prefilled_tokens=min(s.prefilled_tokens for s in group),
            prompt_tokens=0.0,
        )
        for model, group in own.items()
    }
    starts: dict[str, float] = {}
    for stream in streams:
        for source, start_s in stream.starts_s.items():
            starts[source] = min(starts.get(source, start_s), start_s)
    # a call that is shorter here than in its stream may not be held back longer for that
    tails = [
        None if s.tail_s is None else spells[model].duration_s + s.tail_s - s.duration_s
        for model, group in own.items()
        for s in group
    ]
    known = [t for t in tails if t is not None]
    return Ease(spells=spells, starts_s=starts, tail_s=min(known) if len(known) == len(tails) else None)


def _floor(payload: AgentProblem, flow: Flow, case: _Case) -> Ease:
    """Return what holds for any stream: a call decodes all it writes, and starts on some tokens at least."""
    graph = payload.graph
    spells: dict[str, Spell] = {}
    for name in case.models.get(case.call.name, []):
        speed = speed_of(graph.model(name))
        spells[name] = Spell(
            first_token_s=speed.first_token_s(0.0),
            duration_s=speed.whole_s(0.0, output_tokens(case.call)),
            prefilled_tokens=0.0,
            prompt_tokens=0.0,
        )
    starts: dict[str, float] = {}
    for edge in case.edges:
        written = output_tokens(flow.calls[edge.source])
        tokens = min(float(payload.min_first_chunk_tokens), written * edge.share)
        speeds = [speed_of(graph.model(m)) for m in case.models[edge.source]]
        starts[edge.source] = min((s.whole_s(0.0, tokens) for s in speeds), default=0.0)
    return Ease(spells=spells, starts_s=starts, tail_s=None)
