"""From recorded spans to an agent graph: nodes by name, edges by text or by time, lengths and speeds by fit.

Parents in a trace are nesting, not flow of data. An edge is drawn where an output turns up in a later input;
for calls whose texts say nothing, where one call ended before the other began (what a longer path implies is
dropped). Repeated runs of one trace give the spread of lengths.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.ir.agent_graph import AgentGraph, AgentModel, Latency, Tokens, ToolCall

_MIN_MATCH_CHARS = 12
_MAX_SPANS = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One recorded call. Times in seconds; `first_token_s` is relative to the start; None is not recorded."""

    trace: str
    name: str
    kind: Literal["llm", "tool"]
    start_s: float
    end_s: float
    model: str = ""
    input_tokens: float | None = None
    output_tokens: float | None = None
    first_token_s: float | None = None
    input_text: str = ""
    output_text: str = ""
    explicit_id: str = ""
    explicit_parent: str = ""


def graph_of_spans(spans: Sequence[Span], *, name: str, file: str) -> AgentGraph:
    """Return the graph of the trace with most calls, annotated with all traces.

    Raises
    ------
    InputError
        If there are no calls or too many.
    """
    if not spans:
        raise InputError("no model or tool calls in the trace", file=file)
    by_trace: dict[str, list[Span]] = {}
    for span in spans:
        by_trace.setdefault(span.trace, []).append(span)
    longest = max(by_trace.values(), key=len)
    if len(longest) > _MAX_SPANS:
        raise InputError(
            "too many calls in one trace", file=file, value=len(longest), allowed=f"up to {_MAX_SPANS}"
        )
    chosen = sorted(longest, key=lambda s: (s.start_s, s.end_s))
    draft = Draft(name=name, file=file)
    if len(by_trace) > 1:
        draft.guess(f"the file holds {len(by_trace)} traces: the graph is that of the one with most calls")
    for model in sorted({s.model for s in spans if s.kind == "llm"}):
        _add_model(draft, model, [s for s in spans if s.kind == "llm" and s.model == model])
    names = [
        _add(draft, span, [s for s in spans if (s.kind, s.name) == (span.kind, span.name)]) for span in chosen
    ]
    _connect(draft, chosen, names)
    draft.reduce()
    draft.feed_prompts()
    draft.take_outputs_out_of_prompts()
    return draft.graph()


def _connect(draft: Draft, spans: list[Span], names: list[str]) -> None:
    by_id = {s.explicit_id: n for s, n in zip(spans, names, strict=True) if s.explicit_id}
    timed = False
    for j, later in enumerate(spans):
        if later.explicit_parent in by_id and by_id[later.explicit_parent] != names[j]:
            draft.connect(by_id[later.explicit_parent], names[j])
            continue
        before = [i for i in range(j) if spans[i].end_s <= later.start_s]
        matched = [i for i in before if _taken(later.input_text, spans[i].output_text)]
        timed = timed or (not matched and bool(before))
        for i in matched or before:
            draft.connect(names[i], names[j])
    if timed:
        draft.guess(
            "some edges follow from the order of calls only: a call that ended before another is its producer"
        )


def _taken(text: str, output: str) -> bool:
    output = output.strip().strip('"')
    return len(output) >= _MIN_MATCH_CHARS and output in text


def _add(draft: Draft, span: Span, alike: list[Span]) -> str:
    if span.kind == "tool":
        times = [s.end_s - s.start_s for s in alike]
        mean, spread = _log_normal(times)
        output = Tokens(mean=span.output_tokens or 200.0, guessed=span.output_tokens is None)
        work = ToolCall(tool=span.name, latency=Latency(mean_s=mean, sigma_log=spread), output=output)
        return draft.add(span.name, work)
    output = _tokens([s.output_tokens for s in alike])
    prompt = _tokens([s.input_tokens for s in alike])
    return draft.add_call(span.name, model=span.model, output=output, prompt=prompt, reads_input=False)


def _tokens(counts: list[float | None]) -> Tokens | None:
    known = [c for c in counts if c is not None and c > 0]
    if not known:
        return None
    mean, spread = _log_normal(known)
    return Tokens(mean=mean, sigma_log=spread)


def _log_normal(values: list[float]) -> tuple[float, float]:
    """Mean and spread of the logarithm; a spread needs three values."""
    positive = [v for v in values if v > 0]
    mean = statistics.fmean(values)
    spread = statistics.stdev([math.log(v) for v in positive]) if len(positive) >= 3 else 0.0
    return round(mean, 6), round(spread, 4)


def _add_model(draft: Draft, name: str, spans: list[Span]) -> None:
    """Add a model with the speed that its calls show.

    Decode: median of (end - first token) / (output - 1); prefill and overhead: least squares of the time
    to first token over the prompt, or, without first tokens, decode takes all the time.
    """
    known = draft.use_model(name)
    model = draft.models[known]
    streamed = [s for s in spans if s.first_token_s is not None and (s.output_tokens or 0) > 1]
    if streamed:
        steps = [
            (s.end_s - s.start_s - (s.first_token_s or 0)) / ((s.output_tokens or 2) - 1) for s in streamed
        ]
        model = _with_prefill(replace(model, decode_s_per_token=max(statistics.median(steps), 0.0)), streamed)
    else:
        rates = [(s.end_s - s.start_s) / s.output_tokens for s in spans if s.output_tokens]
        if not rates:
            return
        draft.guess(f"model {known!r} has no first-token times: its whole time is taken for decoding")
        model = replace(model, decode_s_per_token=statistics.median(rates), overhead_s=0.0, guessed=True)
    draft.models[known] = model


def _with_prefill(model: AgentModel, spans: list[Span]) -> AgentModel:
    """Fit first-token times to overhead + prompt / rate + one step."""
    points = [
        (s.input_tokens, (s.first_token_s or 0.0) - model.decode_s_per_token) for s in spans if s.input_tokens
    ]
    if not points:
        return model
    mean_x = statistics.fmean(x for x, _ in points)
    mean_y = max(statistics.fmean(y for _, y in points), 0.0)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread > 0 else 0.0
    if slope <= 0 or slope * mean_x > mean_y:
        # no trend to read off: keep the assumed rate, and let the overhead take the rest
        return replace(model, overhead_s=max(mean_y - mean_x / model.prefill_tokens_per_s, 0.0))
    return replace(model, prefill_tokens_per_s=1.0 / slope, overhead_s=mean_y - slope * mean_x, guessed=False)
