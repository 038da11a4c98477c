"""OpenTelemetry: OTLP JSON (or a list of spans) with GenAI or OpenInference attributes.

Names of attributes: semantic conventions for generative AI (gen_ai.*, with the old names prompt_tokens and
completion_tokens), OpenInference (openinference.span.kind, llm.*, graph.node.id, graph.node.parent_id) and
what the AI SDK of Vercel writes beside gen_ai.* (ai.toolCall.*, ai.response.msToFirstChunk in milliseconds).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import Literal, cast

from planner.errors import InputError
from planner.frontend.agent_json import JsonObject, looks_like_json, number_of, parse_json, text_of
from planner.frontend.agent_spans import Span, graph_of_spans
from planner.ir.agent_graph import AgentGraph

_LLM_OPERATIONS = frozenset({"chat", "generate_content", "text_completion", "embeddings"})
_TOOL_OPERATIONS = frozenset({"execute_tool", "retrieval"})
_LLM_KINDS = frozenset({"LLM", "EMBEDDING"})
_TOOL_KINDS = frozenset({"TOOL", "RETRIEVER", "RERANKER"})
_INPUT_TOKENS = (
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.prompt_tokens",
    "llm.token_count.prompt",
    "llm.usage.prompt_tokens",
)
_OUTPUT_TOKENS = (
    "gen_ai.usage.output_tokens",
    "gen_ai.usage.completion_tokens",
    "llm.token_count.completion",
    "llm.usage.completion_tokens",
)
_MODELS = ("gen_ai.response.model", "gen_ai.request.model", "llm.model_name", "embedding.model_name")
_FIRST_TOKEN = ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token")
_FIRST_TOKEN_MS = "ai.response.msToFirstChunk"
_INPUTS = (
    "gen_ai.input.messages",
    "gen_ai.prompt",
    "input.value",
    "gen_ai.tool.call.arguments",
    "ai.prompt.messages",
    "ai.toolCall.args",
)
_OUTPUTS = (
    "gen_ai.output.messages",
    "gen_ai.completion",
    "output.value",
    "gen_ai.tool.call.result",
    "ai.response.text",
    "ai.toolCall.result",
)
_TOOL_NAMES = ("gen_ai.tool.name", "tool.name", "ai.toolCall.name")


@dataclass(frozen=True, slots=True)
class _OpenTelemetry:
    """Reader of spans."""

    def accepts(self, text: str) -> bool:
        """Whether the text is JSON with spans that carry model or tool attributes."""
        marks = ("gen_ai.", "openinference.span.kind", "llm.")
        return any(mark in text for mark in marks) and looks_like_json(text) is not None

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the graph of the recorded calls."""
        del companion
        raw = list(_raw_spans(parse_json(text, file=file), 0))
        if not raw:
            raise InputError("no spans in the file", file=file)
        spans = [span for row in raw if (span := _span(row, file)) is not None]
        return graph_of_spans(spans, name=PurePath(file).stem, file=file)


def _raw_spans(value: object, depth: int) -> Iterator[JsonObject]:
    """Objects with attributes and a start, wherever resource and scope groups put them."""
    if depth > 8:
        return
    if isinstance(value, list):
        for item in cast("list[object]", value):
            yield from _raw_spans(item, depth + 1)
    elif isinstance(value, dict):
        row = cast("JsonObject", value)
        if "attributes" in row and _first(row, ("startTimeUnixNano", "start_time", "startTime")) is not None:
            yield row
            return
        for key in ("resourceSpans", "resource_spans", "scopeSpans", "scope_spans", "spans", "data"):
            if key in row:
                yield from _raw_spans(row[key], depth + 1)


def _first(row: JsonObject, keys: tuple[str, ...]) -> object:
    return next((row[k] for k in keys if row.get(k) is not None), None)


def _attributes(value: object) -> JsonObject:
    """Attributes as a mapping: OTLP's list of key and typed value, or plain JSON (nested keys joined)."""
    found: JsonObject = {}
    if isinstance(value, list):
        for item in cast("list[object]", value):
            if isinstance(item, dict):
                entry = cast("JsonObject", item)
                inner = entry.get("value")
                typed = (
                    next(iter(cast("JsonObject", inner).values()), None) if isinstance(inner, dict) else inner
                )
                found[text_of(entry.get("key"))] = typed
    elif isinstance(value, dict):
        _flatten(cast("JsonObject", value), "", found, 0)
    return found


def _flatten(value: JsonObject, prefix: str, found: JsonObject, depth: int) -> None:
    for key, inner in value.items():
        if isinstance(inner, dict) and depth < 6:
            _flatten(cast("JsonObject", inner), f"{prefix}{key}.", found, depth + 1)
        else:
            found[f"{prefix}{key}"] = inner


def _kind(attributes: JsonObject) -> Literal["llm", "tool"] | None:
    operation = text_of(attributes.get("gen_ai.operation.name"))
    declared = text_of(attributes.get("openinference.span.kind")).upper()
    if operation in _LLM_OPERATIONS or declared in _LLM_KINDS:
        return "llm"
    if operation in _TOOL_OPERATIONS or declared in _TOOL_KINDS or attributes.get("ai.toolCall.name"):
        return "tool"
    if not operation and not declared and _first(attributes, _MODELS) is not None:
        return "llm"
    return None


def _span(row: JsonObject, file: str) -> Span | None:
    attributes = _attributes(row.get("attributes"))
    kind = _kind(attributes)
    if kind is None:
        return None
    start = _seconds(_first(row, ("startTimeUnixNano", "start_time", "startTime")))
    end = _seconds(_first(row, ("endTimeUnixNano", "end_time", "endTime")))
    if start is None or end is None or end < start:
        raise InputError("a span without a start and a later end", file=file, value=text_of(row.get("name")))
    first = number_of(_first(attributes, _FIRST_TOKEN))
    first_ms = number_of(attributes.get(_FIRST_TOKEN_MS))
    if first is None and first_ms is not None:
        first = first_ms / 1e3
    context = row.get("context")
    trace = row.get("traceId") or (
        cast("JsonObject", context).get("trace_id") if isinstance(context, dict) else ""
    )
    name = _first(attributes, _TOOL_NAMES) if kind == "tool" else None
    return Span(
        trace=text_of(trace),
        name=text_of(name or attributes.get("gen_ai.agent.name") or row.get("name")) or kind,
        kind=kind,
        start_s=start,
        end_s=end,
        model=text_of(_first(attributes, _MODELS)),
        input_tokens=number_of(_first(attributes, _INPUT_TOKENS)),
        output_tokens=number_of(_first(attributes, _OUTPUT_TOKENS)),
        first_token_s=first,
        input_text=text_of(_first(attributes, _INPUTS)),
        output_text=text_of(_first(attributes, _OUTPUTS)),
        explicit_id=text_of(attributes.get("graph.node.id")),
        explicit_parent=text_of(attributes.get("graph.node.parent_id")),
    )


def _seconds(value: object) -> float | None:
    """Return seconds from nanoseconds since the epoch, [seconds, nanoseconds] or an ISO time."""
    if isinstance(value, list):
        parts = [number_of(part) for part in cast("list[object]", value)]
        if len(parts) != 2 or parts[0] is None or parts[1] is None:
            return None
        return parts[0] + parts[1] / 1e9
    nanoseconds = number_of(value)
    if nanoseconds is not None:
        return nanoseconds / 1e9
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


IMPORTER = _OpenTelemetry()
