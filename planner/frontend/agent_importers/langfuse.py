"""Langfuse: exported observations (a list, or an object with `observations` or `data`).

Generations are model calls, tools and retrievers (by type) are tools; spans and events without a child are
tools too, since something took their time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePath
from typing import cast

from planner.errors import InputError
from planner.frontend.agent_json import (
    JsonObject,
    as_objects,
    looks_like_json,
    number_of,
    parse_json,
    text_of,
)
from planner.frontend.agent_spans import Span, graph_of_spans
from planner.ir.agent_graph import AgentGraph

_CALLS = frozenset({"GENERATION", "EMBEDDING"})
_TOOLS = frozenset({"TOOL", "RETRIEVER", "SPAN"})


@dataclass(frozen=True, slots=True)
class _Langfuse:
    """Reader of observations."""

    def accepts(self, text: str) -> bool:
        """Whether the text is JSON with observations in it."""
        marks = ('"startTime"', '"type"')
        own = '"parentObservationId"' in text or '"GENERATION"' in text
        return own and all(mark in text for mark in marks) and looks_like_json(text) is not None

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the graph of the recorded calls."""
        del companion
        data = parse_json(text, file=file)
        if isinstance(data, dict):
            whole = cast("JsonObject", data)
            data = whole.get("observations") or whole.get("data")
        rows = as_objects(data, file=file, key="observations")
        parents = {text_of(row.get("parentObservationId")) for row in rows}
        spans = [
            _span(row, file)
            for row in rows
            if text_of(row.get("type")).upper() in _CALLS
            or (text_of(row.get("type")).upper() in _TOOLS and text_of(row.get("id")) not in parents)
        ]
        return graph_of_spans(spans, name=PurePath(file).stem, file=file)


def _span(row: JsonObject, file: str) -> Span:
    start, end = _seconds(row.get("startTime")), _seconds(row.get("endTime"))
    name = text_of(row.get("name")) or text_of(row.get("id"))
    if start is None or end is None or end < start:
        raise InputError("an observation without a start and a later end", file=file, value=name)
    first = _seconds(row.get("completionStartTime"))
    is_call = text_of(row.get("type")).upper() in _CALLS
    return Span(
        trace=text_of(row.get("traceId")),
        name=name,
        kind="llm" if is_call else "tool",
        start_s=start,
        end_s=end,
        model=text_of(row.get("model")),
        input_tokens=_usage(row, ("input", "promptTokens", "prompt_tokens", "input_tokens")),
        output_tokens=_usage(row, ("output", "completionTokens", "completion_tokens", "output_tokens")),
        first_token_s=None if first is None or not start <= first <= end else first - start,
        input_text=text_of(row.get("input")),
        output_text=text_of(row.get("output")),
    )


def _usage(row: JsonObject, keys: tuple[str, ...]) -> float | None:
    for place in ("usageDetails", "usage"):
        usage = row.get(place)
        if isinstance(usage, dict):
            for key in keys:
                count = number_of(cast("JsonObject", usage).get(key))
                if count is not None:
                    return count
    return next((n for key in keys[1:] if (n := number_of(row.get(key))) is not None), None)


def _seconds(value: object) -> float | None:
    try:
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None


IMPORTER = _Langfuse()
