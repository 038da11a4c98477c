"""Writes an agent graph in its text form; reading it back gives the same graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from planner.ir.agent_graph import (
    END,
    LOSSLESS_KINDS,
    START,
    AgentGraph,
    AgentModel,
    Draft,
    Edge,
    Human,
    Latency,
    LlmCall,
    Nested,
    Node,
    PromptPart,
    Router,
    Tokens,
    ToolCall,
)

Plain = dict[str, object]


def agent_graph_text(graph: AgentGraph) -> str:
    """Return the graph as YAML, ending in a newline."""
    content: Plain = {"kind": "agents", **_graph(graph)}
    return yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000, default_flow_style=None
    )


class _Dumper(yaml.SafeDumper):
    """Writes small mappings on one line and lists of edges and guesses one entry a line."""

    def represent_sequence(
        self, tag: str, sequence: Iterable[Any], flow_style: bool | None = None
    ) -> yaml.SequenceNode:
        """Write a list in block style if an entry is a longer text."""
        items = list(sequence)
        long = any(isinstance(item, str) and (" " in item) for item in items)
        return super().represent_sequence(tag, items, flow_style=False if long else flow_style)


def _graph(graph: AgentGraph) -> Plain:
    plain: Plain = {"name": graph.name}
    defaults: Plain = {"goal": "min_latency"}
    for key in ("goal", "deadline_s", "budget_usd", "period_s", "min_quality"):
        value: object = getattr(graph, key)
        if value is not None and value != defaults.get(key):
            plain[key] = value
    if graph.priority:
        plain["priority"] = graph.priority
    if graph.input_tokens != Tokens(mean=0.0):
        plain["input_tokens"] = _tokens(graph.input_tokens)
    if graph.models:
        plain["models"] = {m.name: _model(m) for m in graph.models}
    plain["nodes"] = {n.name: _node(n) for n in graph.nodes}
    plain["edges"] = [_edge(e) for e in graph.edges]
    if graph.guesses:
        plain["guesses"] = list(graph.guesses)
    return plain


def _tokens(tokens: Tokens) -> object:
    if tokens == Tokens(mean=tokens.mean):
        return tokens.mean
    plain: Plain = {"mean": tokens.mean}
    if tokens.sigma_log:
        plain["sigma_log"] = tokens.sigma_log
    if tokens.limit is not None:
        plain["limit"] = tokens.limit
    if tokens.guessed:
        plain["guessed"] = True
    return plain


def _latency(latency: Latency) -> object:
    if latency == Latency(mean_s=latency.mean_s):
        return latency.mean_s
    plain: Plain = {"mean_s": latency.mean_s, "sigma_log": latency.sigma_log}
    if latency.guessed:
        plain["guessed"] = True
    return plain


def _model(model: AgentModel) -> Plain:
    plain: Plain = {
        "prefill_tokens_per_s": model.prefill_tokens_per_s,
        "decode_s_per_token": model.decode_s_per_token,
        "overhead_s": model.overhead_s,
    }
    prices = {
        "usd_per_million_input": model.usd_per_input_token,
        "usd_per_million_output": model.usd_per_output_token,
    }
    plain |= {key: _millionfold(value) for key, value in prices.items() if value}
    plain |= {key: getattr(model, key) for key in ("slots", "replicas") if getattr(model, key) != 1}
    plain |= {
        key: getattr(model, key)
        for key in (
            "quality",
            "calls_per_minute",
            "tokens_per_minute",
            "cache_block_tokens",
            "endpoint",
            "guessed",
        )
        if getattr(model, key) not in (None, 0, "", False)
    }
    if model.quality == 0:
        plain["quality"] = model.quality
    if model.drafts:
        plain["drafts"] = {draft.name: _draft(draft) for draft in model.drafts}
    return plain


def _draft(draft: Draft) -> Plain:
    default = Draft(name="", mode="serial", acceptance=0.0, decode_s_per_token=0.0)
    plain: Plain = {
        "mode": draft.mode,
        "acceptance": draft.acceptance,
        "decode_s_per_token": draft.decode_s_per_token,
    }
    for key in ("max_tokens", "layers_at_once", "check_growth", "slots"):
        if getattr(draft, key) != getattr(default, key):
            plain[key] = getattr(draft, key)
    if draft.usd_per_output_token:
        plain["usd_per_million_output"] = _millionfold(draft.usd_per_output_token)
    return plain


def _millionfold(usd: float) -> float:
    """Return the shortest number that a division by a million brings back to `usd`."""
    rounded = round(usd * 1e6, 9)
    return rounded if rounded / 1e6 == usd else usd * 1e6


def _node(node: Node) -> Plain:
    plain = _work(node)
    if node.join is not None:
        plain["join"] = "any" if node.join == 1 else node.join
    if node.copies != 1:
        plain["copies"] = node.copies
    if node.parallel is not None:
        plain["parallel"] = node.parallel
    if node.deadline_s is not None:
        plain["deadline_s"] = node.deadline_s
    if node.on_failure != "fail":
        plain["on_failure"] = node.on_failure
    return plain


def _work(node: Node) -> Plain:
    match node.work:
        case LlmCall() as call:
            return _call(call)
        case ToolCall() as tool:
            plain: Plain = {
                "kind": "tool",
                "latency_s": _latency(tool.latency),
                "output": _tokens(tool.output),
            }
            if tool.tool != node.name:
                plain["tool"] = tool.tool
            if tool.limit is not None:
                plain["limit"] = tool.limit
            if tool.side_effects:
                plain["side_effects"] = True
            if tool.arguments:
                plain["arguments"] = tool.arguments
            return plain
        case Human() as human:
            return {"kind": "human", "latency_s": _latency(human.latency), "output": _tokens(human.output)}
        case Router():
            return {"kind": "router"}
        case Nested(graph=inner):
            return {"kind": "graph", "graph": _graph(inner)}


def _call(call: LlmCall) -> Plain:
    plain: Plain = {"kind": "llm", "models": list(call.models)}
    if call.prompt:
        plain["prompt"] = [_part(part) for part in call.prompt]
    plain["output"] = _tokens(call.output)
    if call.samples != 1:
        plain |= {"samples": call.samples, "keep": call.keep}
    if call.partial_inputs:
        plain["partial_inputs"] = True
    return plain


def _part(part: PromptPart) -> Plain | str:
    if part == PromptPart(kind="input"):
        return "input"
    size = None if part.tokens is None else _tokens(part.tokens)
    plain: Plain = {"from": part.source} if part.kind == "node" else {part.kind: size}
    if part.kind == "node" and size is not None:
        plain["tokens"] = size
    if part.text:
        plain["text"] = part.text
    if part.share:
        plain["share"] = part.share
    if part.role != "user":
        plain["role"] = part.role
    return plain


def _edge(edge: Edge) -> object:
    ends = {START: "start", END: "end"}
    source, target = ends.get(edge.source, edge.source), ends.get(edge.target, edge.target)
    plain: Plain = {"from": source, "to": target}
    if edge.kinds != LOSSLESS_KINDS:
        plain["kinds"] = list(edge.kinds)
    if edge.probability != 1.0:
        plain["probability"] = edge.probability
    if edge.max_rounds is not None:
        plain["max_rounds"] = edge.max_rounds
    if edge.when is not None:
        plain["when"] = {("not_" if edge.when.negate else "") + edge.when.test: edge.when.value}
    simple = len(plain) == 2 and "->" not in source + target
    return f"{source} -> {target}" if simple else plain
