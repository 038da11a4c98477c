"""The stream of each consumer once models are known: the one that gains most, or none.

Which edges may stream at all follows from the graph; how they do best, from the closed forms.
"""

from __future__ import annotations

from collections.abc import Sequence

from planner.ir.agent_graph import AgentGraph, AgentProblem, EdgeKind, LlmCall, ToolCall
from planner.space.agent_flat import FlatCall, FlatEdge, Flow
from planner.space.agent_lower import output_tokens, own_tokens, producer_tokens, prompt_tokens, speed_of
from planner.space.agent_streams import (
    OVERLAP_CHUNK_TOKENS,
    Consumer,
    Producer,
    Stream,
    best_stream,
    chunk_schedules,
    chunks,
    overlap_chunks,
)

_WHOLE_KINDS: tuple[EdgeKind, ...] = ("overlap", "staircase")


def gaining_streams(payload: AgentProblem, flow: Flow, fixed: dict[str, str]) -> dict[str, Stream]:
    """Return the streams that gain, by consumer."""
    found: dict[str, Stream] = {}
    for call in flow.flat.calls:
        stream = gaining_stream(payload, flow, call, fixed)
        if stream is not None:
            found[call.name] = stream
    return found


def gaining_stream(payload: AgentProblem, flow: Flow, call: FlatCall, fixed: dict[str, str]) -> Stream | None:
    """Return the stream of one consumer, None if waiting is as good; `fixed` holds the models at hand."""
    return _items(payload.graph, flow, call, fixed) or _whole_stream(payload, flow, call, fixed)


def may_stream(flow: Flow, call: FlatCall) -> list[FlatEdge]:
    """Return the edges that some choice of models might stream; none for most calls."""
    edges = flow.producers(call)
    if len(edges) == 1 and "items" in edges[0].kinds and edges[0].part < 1.0 and not edges[0].branch:
        return [e for e in edges if isinstance(flow.calls[e.source].work, LlmCall)]
    if not isinstance(call.work, LlmCall) or call.join is not None:
        return []
    return [e for e in edges if _can_stream(flow, call, e)]


def kinds_allowed(flow: Flow, call: FlatCall) -> frozenset[EdgeKind]:
    """Return the ways in which a call may take whole outputs as they are written."""
    edges = flow.producers(call)
    streaming = [e for e in edges if _can_stream(flow, call, e)]
    if not isinstance(call.work, LlmCall) or call.join is not None or not streaming:
        return frozenset()
    allowed = set[EdgeKind](kind for kind in _WHOLE_KINDS if all(kind in e.kinds for e in streaming))
    if len(streaming) < len(edges):
        allowed.discard("overlap")
    return frozenset(allowed)


def _producers(
    graph: AgentGraph, flow: Flow, edges: Sequence[FlatEdge], fixed: dict[str, str]
) -> list[Producer]:
    sources = [flow.calls[e.source] for e in edges]
    return [
        Producer(
            name=source.name,
            speed=speed_of(graph.model(fixed[source.name])),
            prompt_tokens=prompt_tokens(graph, flow, source),
            output_tokens=output_tokens(source),
        )
        for source in sources
        if isinstance(source.work, LlmCall)
    ]


def _whole_stream(payload: AgentProblem, flow: Flow, call: FlatCall, fixed: dict[str, str]) -> Stream | None:
    """Return the best staircase or overlap of a call, if its certain producers allow one."""
    graph, edges = payload.graph, flow.producers(call)
    allowed = kinds_allowed(flow, call)
    if not allowed:
        return None
    streaming = [e for e in edges if _can_stream(flow, call, e)]
    producers = _producers(graph, flow, streaming, fixed)
    model = graph.model(fixed[call.name])
    rest = [e for e in edges if e not in streaming]
    consumer = Consumer(
        speed=speed_of(model),
        own_tokens=own_tokens(graph, call) + sum(producer_tokens(flow, call, e) for e in rest),
        output_tokens=output_tokens(call),
        cached=model.cache_block_tokens > 0,
    )
    limits = (payload.min_first_chunk_tokens, payload.e2e_slack)
    return best_stream(consumer, producers, allowed, graph.goal, limits)


def _can_stream(flow: Flow, call: FlatCall, edge: FlatEdge) -> bool:
    source = flow.calls[edge.source]
    sure = not edge.branch and abs(source.probability - call.probability) < 1e-9
    return sure and isinstance(source.work, LlmCall) and output_tokens(source) > 1


def _items(graph: AgentGraph, flow: Flow, call: FlatCall, fixed: dict[str, str]) -> Stream | None:
    """Return an item-wise stream: the copy starts when its part of the producer's list is written."""
    edges = flow.producers(call)
    if len(edges) != 1 or "items" not in edges[0].kinds or edges[0].part >= 1.0 or edges[0].branch:
        return None
    producers = _producers(graph, flow, edges, fixed)
    if not producers:
        return None
    made = producers[0]
    boundary = made.output_tokens * edges[0].share
    start = made.ready_s(boundary)
    if isinstance(call.work, ToolCall):
        time_s = call.work.latency.mean_s
        return _item_stream(made.name, boundary, start, (time_s, time_s, 0.0))
    if not isinstance(call.work, LlmCall):
        return None
    prompt, speed = prompt_tokens(graph, flow, call), speed_of(graph.model(fixed[call.name]))
    times = (speed.first_token_s(prompt), speed.whole_s(prompt, output_tokens(call)), prompt)
    return _item_stream(made.name, boundary, start, times)


def _item_stream(source: str, boundary: float, start_s: float, times: tuple[float, float, float]) -> Stream:
    """Return the stream of one item; `times` are first token, whole time and prefilled tokens."""
    first_s, whole_s, prefilled = times
    return Stream(
        kind="items",
        boundaries=(boundary,),
        starts_s={source: start_s},
        tail_s=None,
        first_token_s=first_s,
        duration_s=whole_s,
        prefilled_tokens=prefilled,
        ttft_s=start_s + first_s,
        e2e_s=start_s + whole_s,
    )


def ways_of(payload: AgentProblem, flow: Flow, call: FlatCall) -> list[Stream]:
    """Return the ways in which a call may stream, whatever the models, without times; maybe none."""
    edges = may_stream(flow, call)
    if not edges:
        return []
    names = [e.source for e in edges]
    if len(edges) == 1 and "items" in edges[0].kinds and edges[0].part < 1.0:
        written = output_tokens(flow.calls[names[0]])
        return [_untimed("items", names, (written * edges[0].share,))]
    kinds, found = kinds_allowed(flow, call), list[Stream]()
    longest = max(output_tokens(flow.calls[name]) for name in names)
    if "overlap" in kinds and longest > OVERLAP_CHUNK_TOKENS:
        found.append(_untimed("overlap", names, overlap_chunks(longest)))
    if "staircase" in kinds and payload.graph.goal != "min_cost":
        found += [
            _untimed("staircase", names, b) for b in chunk_schedules(longest, payload.min_first_chunk_tokens)
        ]
    return found


def stairs_of(flow: Flow, call: FlatCall, first: int, growth: int) -> Stream:
    """Return the staircase of a call in chunks from `first` tokens on, without times."""
    names = [e.source for e in may_stream(flow, call)]
    longest = max(output_tokens(flow.calls[name]) for name in names)
    return _untimed("staircase", names, chunks(longest, float(first), growth))


def _untimed(kind: EdgeKind, sources: list[str], boundaries: tuple[float, ...]) -> Stream:
    return Stream(
        kind=kind,
        boundaries=boundaries,
        starts_s=dict.fromkeys(sources, 0.0),
        tail_s=None,
        first_token_s=0.0,
        duration_s=0.0,
        prefilled_tokens=0.0,
        ttft_s=0.0,
        e2e_s=0.0,
    )
