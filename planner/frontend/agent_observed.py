"""Puts what runs showed into a graph: lengths, speeds, latencies, probabilities of branches.

Speeds are fitted per model: seconds per token over all requests, weighted by their length, and the time to
the first token as overhead plus prompt over prefill speed (least squares where prompts differ enough, else
the stated prefill speed stays and the overhead takes the rest).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import exp, log
from statistics import fmean, pstdev

from cost_models.agents.lengths import mean_below
from planner.diagnostics import Diagnostics
from planner.frontend.observed_runs import ObservedRuns, SeenCall, SeenRequest
from planner.ir.agent_graph import (
    AgentGraph,
    AgentModel,
    Edge,
    LlmCall,
    Nested,
    Node,
    PromptPart,
    Tokens,
    ToolCall,
)

PRIOR_OBSERVATIONS = 0.1
"""Weight of a stated probability against one observed decision, so that no branch is ever ruled out."""

_MIN_SPREAD = 1.5
_MAX_PREFILL_TOKENS_PER_S = 1e7


def with_observations(graph: AgentGraph, seen: ObservedRuns, diagnostics: Diagnostics) -> AgentGraph:
    """Return the graph with what the runs showed."""
    found = _graph(graph, seen, "")
    diagnostics.note(
        "agents-observed", f"lengths, speeds and branches come from {seen.num_runs} observed runs"
    )
    for figure, words in (("ttft_s", "first token"), ("latency_s", "end")):
        errors = seen.errors.get(figure)
        if errors:
            mean, worst = fmean(errors), max(errors, key=abs)
            diagnostics.note(
                "agents-observed-error",
                f"{words}: the plans of these runs predicted {mean:+.1%} on average, {worst:+.1%} at worst",
            )
    unseen = sorted(n.name for n in _calls(graph) if not _of_node(seen, n.name))
    if unseen:
        diagnostics.note("agents-unobserved", f"never ran, so as stated: {', '.join(unseen[:10])}")
    return found


def _calls(graph: AgentGraph) -> list[Node]:
    return [n for n in graph.nodes if isinstance(n.work, LlmCall | ToolCall)]


def _graph(graph: AgentGraph, seen: ObservedRuns, prefix: str) -> AgentGraph:
    outputs = {n.name: _mean_output(seen, prefix + n.name) for n in graph.nodes}
    return replace(
        graph,
        nodes=tuple(_node(graph, n, seen, prefix, outputs) for n in graph.nodes),
        edges=_edges(graph, seen, prefix),
        models=tuple(_model(m, seen) for m in graph.models),
    )


def _of_node(seen: ObservedRuns, name: str) -> list[SeenCall]:
    return [c for c in seen.calls if c.node == name]


def _mean_output(seen: ObservedRuns, name: str) -> float | None:
    lengths = [c.output_tokens for c in _of_node(seen, name)]
    return fmean(lengths) if lengths else None


def _node(
    graph: AgentGraph, node: Node, seen: ObservedRuns, prefix: str, outputs: dict[str, float | None]
) -> Node:
    calls = _of_node(seen, prefix + node.name)
    match node.work:
        case Nested(graph=inner):
            return replace(node, work=Nested(graph=_graph(inner, seen, f"{prefix}{node.name}/")))
        case LlmCall() as call if calls:
            output = _tokens([c.output_tokens for c in calls], call.output)
            parts = _prompt(graph, call, calls, outputs)
            return replace(node, work=replace(call, output=output, prompt=parts))
        case ToolCall() as tool if calls:
            mean, spread = _log_normal([c.work_s for c in calls])
            latency = replace(tool.latency, mean_s=mean, sigma_log=spread, guessed=False)
            return replace(node, work=replace(tool, latency=latency))
        case _:
            return node


def _log_normal(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and spread of the logarithm."""
    positive = [log(v) for v in values if v > 0]
    return fmean(values), round(pstdev(positive), 6) if len(positive) > 1 else 0.0


def _tokens(lengths: Sequence[float], stated: Tokens) -> Tokens:
    mean, spread = _log_normal(lengths)
    limit = stated.limit
    if spread > 0 and limit is not None:
        mean = _mean_before_cut(mean, spread, limit)
    return Tokens(mean=mean, sigma_log=spread, limit=limit)


def _mean_before_cut(mean: float, spread: float, limit: int) -> float:
    """Return the mean of the distribution that has mean `mean` once it is cut at `limit` (bisection)."""
    low, high = mean, mean * exp(4 * spread) + 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_below(middle, spread, limit) < mean else (low, middle)
    return high


def _prompt(
    graph: AgentGraph, call: LlmCall, calls: Sequence[SeenCall], outputs: dict[str, float | None]
) -> tuple[PromptPart, ...]:
    """Return prompt parts whose own tokens add up to what was counted beside the producers' outputs."""
    counted = [c.prompt_tokens for c in calls if c.prompt_tokens is not None]
    own = [i for i, part in enumerate(call.prompt) if part.kind != "node"]
    produced = [outputs.get(part.source) for part in call.prompt if part.kind == "node"]
    if not counted or not own or None in produced:
        return call.prompt
    brought = sum(p for p in produced if p is not None)
    for part in call.prompt:
        if part.kind == "node" and _copies(graph, part.source) != 1:
            return call.prompt
    left = max(fmean(counted) - brought, 0.0)
    stated = [_stated(graph, call.prompt[i]) for i in own]
    total = sum(stated)
    shares = [s / total for s in stated] if total > 0 else [1.0 / len(own)] * len(own)
    parts = list(call.prompt)
    for i, share in zip(own, shares, strict=True):
        parts[i] = replace(parts[i], tokens=Tokens(mean=left * share))
    return tuple(parts)


def _copies(graph: AgentGraph, name: str) -> int:
    node = graph.node(name)
    return node.copies * (node.work.samples if isinstance(node.work, LlmCall) else 1)


def _stated(graph: AgentGraph, part: PromptPart) -> float:
    tokens = part.tokens or (graph.input_tokens if part.kind == "input" else None)
    return tokens.mean if tokens is not None else 0.0


# -- branches ------------------------------------------------------------------------------------


def _edges(graph: AgentGraph, seen: ObservedRuns, prefix: str) -> tuple[Edge, ...]:
    found = [_edge(e, seen.branches.get(f"{prefix}{e.source} -> {prefix}{e.target}")) for e in graph.edges]
    totals: dict[str, float] = {}
    for edge in found:
        if edge.probability < 1.0 and edge.max_rounds is None:
            totals[edge.source] = totals.get(edge.source, 0.0) + edge.probability
    return tuple(
        replace(e, probability=e.probability / totals[e.source])
        if e.probability < 1.0 and e.max_rounds is None and totals[e.source] > 1.0
        else e
        for e in found
    )


def _edge(edge: Edge, counts: tuple[int, int] | None) -> Edge:
    if counts is None or counts[1] == 0 or (edge.probability >= 1.0 and edge.when is None):
        return edge
    taken, decided = counts
    chance = (taken + PRIOR_OBSERVATIONS * edge.probability) / (decided + PRIOR_OBSERVATIONS)
    return replace(edge, probability=min(max(chance, 0.0), 1.0))


# -- speeds --------------------------------------------------------------------------------------


def _model(model: AgentModel, seen: ObservedRuns) -> AgentModel:
    requests = [r for c in seen.calls for r in c.requests if r.model == model.name]
    written = [(r.end_s - r.first_s, r.output_tokens - 1) for r in requests if r.output_tokens > 1]
    if not requests:
        return model
    decode_s = model.decode_s_per_token
    if written:
        decode_s = sum(s for s, _ in written) / sum(n for _, n in written)
    points = _first_token_points(requests, decode_s)
    overhead_s, prefill = _first_token_line(points, model)
    return replace(
        model,
        decode_s_per_token=max(decode_s, 0.0),
        overhead_s=overhead_s,
        prefill_tokens_per_s=prefill,
        guessed=False,
    )


def _first_token_points(requests: Sequence[SeenRequest], decode_s: float) -> list[tuple[float, float]]:
    """Return (prompt tokens, seconds to the end of prefill); counts that are missing come from characters."""
    known = [r for r in requests if r.prompt_tokens is not None and r.prompt_chars > 0]
    chars = sum(r.prompt_chars for r in known)
    per_char = sum(r.prompt_tokens or 0.0 for r in known) / chars if chars else None
    points: list[tuple[float, float]] = []
    for r in requests:
        prompt = r.prompt_tokens
        if prompt is None and per_char is not None:
            prompt = r.prompt_chars * per_char
        if prompt is not None:
            points.append((prompt, max(r.first_s - r.start_s - decode_s, 0.0)))
    return points


def _first_token_line(points: Sequence[tuple[float, float]], model: AgentModel) -> tuple[float, float]:
    """Return (overhead in seconds, prefill in tokens/s) of the line through the points."""
    if not points:
        return model.overhead_s, model.prefill_tokens_per_s
    sizes, times = [p for p, _ in points], [t for _, t in points]
    middle, mean = fmean(sizes), fmean(times)
    spread = sum((p - middle) ** 2 for p in sizes)
    if spread > 0 and max(sizes) >= _MIN_SPREAD * max(min(sizes), 1.0):
        slope = sum((p - middle) * (t - mean) for p, t in points) / spread
        if slope > 0 and mean - slope * middle >= 0:
            return mean - slope * middle, min(1.0 / slope, _MAX_PREFILL_TOKENS_PER_S)
    rest = mean - middle / model.prefill_tokens_per_s
    if rest >= 0:
        return rest, model.prefill_tokens_per_s
    return 0.0, min(max(middle, 1.0) / max(mean, 1e-9), _MAX_PREFILL_TOKENS_PER_S)
