"""What streaming could give a consumer at the very best, over every choice of models: for lower bounds.

Each number is the least over the choices on its own, so no plan does better; a schedule that rests on
them all at once need not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

from planner.ir.agent_graph import AgentGraph, AgentModel, AgentProblem, LlmCall
from planner.space.agent_flat import FlatCall, FlatEdge, Flow
from planner.space.agent_gains import gaining_stream, may_stream
from planner.space.agent_lower import (
    Ease,
    Spell,
    output_tokens,
    own_tokens,
    prompt_tokens,
    speed_of,
    usable_models,
)
from planner.space.agent_streams import OVERLAP_CHUNK_TOKENS, Stream

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
    """Return what holds for any stream: a call starts on the least first chunks and decodes all it writes.

    A stream that may be an overlap prefills nothing but its last chunk after its start.
    """
    graph, call = payload.graph, case.call
    first_chunk = float(payload.min_first_chunk_tokens)
    items = any("items" in e.kinds and e.part < 1.0 for e in case.edges)
    chunks = [min(first_chunk, output_tokens(flow.calls[e.source])) for e in case.edges]
    spells: dict[str, Spell] = {}
    for name in case.models.get(call.name, []):
        model = graph.model(name)
        ahead = items or _may_overlap(graph, flow, case, model)
        prompt = 0.0 if ahead else own_tokens(graph, call) + sum(chunks)
        speed = speed_of(model)
        spells[name] = Spell(
            first_token_s=speed.first_token_s(prompt),
            duration_s=speed.whole_s(prompt, output_tokens(call)),
            prefilled_tokens=0.0,
            prompt_tokens=0.0,
        )
    starts: dict[str, float] = {}
    for edge in case.edges:
        source = flow.calls[edge.source]
        tokens = min(first_chunk, output_tokens(source) * edge.share)
        read = prompt_tokens(graph, flow, source)
        speeds = [speed_of(graph.model(m)) for m in case.models[edge.source]]
        starts[edge.source] = min((s.whole_s(read, tokens) for s in speeds), default=0.0)
    # what is asked again as its producers write does not end before they do
    return Ease(spells=spells, starts_s=starts, tail_s=None if items else 0.0)


def _may_overlap(graph: AgentGraph, flow: Flow, case: _Case, model: AgentModel) -> bool:
    """Whether some stream on `model` could be an overlap: its prefill keeps up with the slowest choices."""
    sources = [flow.calls[e.source] for e in case.edges]
    slowest = [max(graph.model(m).decode_s_per_token for m in case.models[s.name]) for s in sources]
    return (
        len(case.edges) == len(flow.producers(case.call))
        and all("overlap" in e.kinds for e in case.edges)
        and model.cache_block_tokens > 0
        and max(output_tokens(s) for s in sources) > OVERLAP_CHUNK_TOKENS
        and speed_of(model).prefill_s(len(sources) * OVERLAP_CHUNK_TOKENS)
        <= OVERLAP_CHUNK_TOKENS * min(slowest)
    )
