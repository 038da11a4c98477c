"""The least that any way of streaming takes, over every choice of models: for lower bounds.

Each number is the least on its own, so no run does better; one that reaches them all at once need not exist.
A consumer that may start on partial inputs begins on first chunks and reads its whole prompt while it runs.
One whose prompt is only computed ahead waits for its producers and has their last chunk to prefill, but
reads nothing before their first chunks either. Where a call may do both it is counted as the former from as
long before its start as it saves (`Eases.hidden_s` at most), and its slot for the shorter time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from cost_models.agents.calls import CallSpeed
from planner.ir.agent_graph import AgentGraph, AgentModel, AgentProblem, LlmCall, ToolCall
from planner.space.agent_eased import Ease, Spell
from planner.space.agent_flat import FlatCall, FlatEdge, Flow
from planner.space.agent_gains import kinds_allowed, may_stream
from planner.space.agent_lower import (
    output_tokens,
    prompt_tokens,
    speed_of,
    usable_models,
)
from planner.space.agent_streams import OVERLAP_CHUNK_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Eases:
    """The least per consumer, and by how much a call may be counted too early, seconds."""

    by_call: dict[str, Ease]
    hidden_s: float


@dataclass(slots=True, kw_only=True)
class _Least:
    """State while the calls are passed in order: per call its speeds and least prompts."""

    payload: AgentProblem
    flow: Flow
    times: dict[str, list[tuple[CallSpeed, float]]] = field(
        default_factory=dict[str, list[tuple[CallSpeed, float]]]
    )
    hidden_s: float = 0.0

    @property
    def graph(self) -> AgentGraph:
        """The graph."""
        return self.payload.graph

    def ease(self, call: FlatCall) -> Ease | None:
        """Return the least of one call, None if it can only wait; later calls may ask for its times."""
        work = call.work
        if not isinstance(work, LlmCall):
            return self._tool(call)
        edges, kinds = may_stream(self.flow, call), kinds_allowed(self.flow, call)
        items = _items(self.flow, call)
        models = usable_models(self.graph, work)
        whole = prompt_tokens(self.graph, self.flow, call)
        if items is not None or not kinds:
            self.times[call.name] = [(speed_of(m), whole) for m in models]
            spells = {m.name: _spell(m, call, whole, whole) for m in models}
            return None if items is None else self._part(spells, items)
        lasts = {m.name: self._last(call, edges, m, whole) for m in models}
        if "staircase" in kinds:
            return self._partial(call, edges, (models, whole), lasts)
        self.times[call.name] = [(speed_of(m), lasts[m.name]) for m in models]
        return Ease(
            spells={m.name: _spell(m, call, lasts[m.name], whole) for m in models},
            starts_s={},
            tail_s=None,
            ahead_s={e.source: self._chunk_s(e.source, OVERLAP_CHUNK_TOKENS) for e in edges},
            reads_s={m.name: (whole - lasts[m.name]) / m.prefill_tokens_per_s for m in models},
        )

    def _partial(
        self,
        call: FlatCall,
        edges: list[FlatEdge],
        what: tuple[tuple[AgentModel, ...], float],
        lasts: dict[str, float],
    ) -> Ease:
        """Return the least of a call that may start on first chunks: it reads its prompt while it runs."""
        models, whole = what
        sizes = {e.source: output_tokens(self.flow.calls[e.source]) for e in edges}
        first = float(self.payload.min_first_chunk_tokens)
        brought = sum(sizes.values())
        partial = max(whole - brought, 0.0) + sum(min(first, size) for size in sizes.values())
        partial = min(partial, whole)
        self.times[call.name] = [(speed_of(m), partial) for m in models]
        spells = {
            m.name: replace(
                _spell(m, call, whole, whole),
                first_token_s=_spell(m, call, partial, whole).first_token_s,
            )
            for m in models
        }
        held = {m.name: _spell(m, call, lasts[m.name], whole).duration_s for m in models}
        hidden = ((whole - lasts[m.name]) / m.prefill_tokens_per_s for m in models)
        self.hidden_s = max(self.hidden_s, *hidden)
        return Ease(
            spells=spells,
            starts_s={source: self._chunk_s(source, first) for source in sizes},
            tail_s=min(m.overhead_s + m.decode_s_per_token for m in models),
            held_s=held,
        )

    def _part(self, spells: dict[str, Spell], edge: FlatEdge) -> Ease:
        return Ease(spells=spells, starts_s={edge.source: self._part_s(edge)}, tail_s=None)

    def _tool(self, call: FlatCall) -> Ease | None:
        items = _items(self.flow, call) if isinstance(call.work, ToolCall) else None
        return None if items is None else self._part({}, items)

    def _last(self, call: FlatCall, edges: list[FlatEdge], model: AgentModel, whole: float) -> float:
        """Return the tokens that are prefilled after the end of the producers at the least."""
        sizes = [output_tokens(self.flow.calls[e.source]) for e in edges]
        ahead = "overlap" in kinds_allowed(self.flow, call) and model.cache_block_tokens > 0
        if not ahead or max(sizes) <= OVERLAP_CHUNK_TOKENS:
            return whole
        return min([whole, *(_last_chunk(size) for size in sizes)])

    def _chunk_s(self, source: str, tokens: float) -> float:
        """Return the least time from a call's start to its first tokens."""
        count = min(tokens, output_tokens(self.flow.calls[source]))
        return min((s.whole_s(prompt, count) for s, prompt in self.times[source]), default=0.0)

    def _part_s(self, edge: FlatEdge) -> float:
        """Return the least time from a producer's start to the end of the item that one edge carries."""
        part = output_tokens(self.flow.calls[edge.source]) * edge.share
        return min((speed.whole_s(prompt, part) for speed, prompt in self.times[edge.source]), default=0.0)


def eases_of(payload: AgentProblem, flow: Flow) -> Eases:
    """Return the least that every call takes which could stream."""
    state = _Least(payload=payload, flow=flow)
    found: dict[str, Ease] = {}
    for call in flow.flat.calls:
        ease = state.ease(call)
        if ease is not None:
            found[call.name] = ease
    return Eases(by_call=found, hidden_s=state.hidden_s)


def _items(flow: Flow, call: FlatCall) -> FlatEdge | None:
    edges = may_stream(flow, call)
    return edges[0] if len(edges) == 1 and "items" in edges[0].kinds and edges[0].part < 1.0 else None


def _last_chunk(size: float) -> float:
    """Return what is left of an output after its last whole chunk but one."""
    return size - OVERLAP_CHUNK_TOKENS * (ceil(size / OVERLAP_CHUNK_TOKENS) - 1)


def _spell(model: AgentModel, call: FlatCall, prompt: float, whole: float) -> Spell:
    speed, output = speed_of(model), output_tokens(call)
    whole_s = speed.whole_s(prompt, output)
    return Spell(
        first_token_s=min(speed.first_token_s(prompt), whole_s),
        duration_s=whole_s,
        # whatever the way, all of the prompt is prefilled once
        prefilled_tokens=whole,
        prompt_tokens=whole,
    )
