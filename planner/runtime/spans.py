"""OpenTelemetry spans with the attributes of the GenAI conventions (extra ``newel[otel]``).

One span per run (``invoke_workflow``), below it one per model call (``chat``) and tool (``execute_tool``).
Without the extra, or when no tracer is wanted, nothing is recorded and nothing costs time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol
from urllib.parse import urlsplit

from planner.errors import InputError
from planner.runtime.records import CallRecord, RunResult

Attributes = dict[str, str | int | float | bool | list[str]]


class CallSpan(Protocol):
    """The span of a call that is being made."""

    def done(self, record: CallRecord) -> None:
        """Note how the call went."""
        ...


class Tracer(Protocol):
    """Where spans go."""

    def begin_run(self, run: str, plan: str) -> None:
        """Open the span of a run."""
        ...

    def end_run(self, run: str, result: RunResult | None) -> None:
        """Close it."""
        ...

    def call(self, run: str, record: CallRecord) -> AbstractContextManager[CallSpan]:
        """Return the span of a call, open while the context is entered."""
        ...


class _Silence:
    """Records nothing."""

    def done(self, record: CallRecord) -> None:
        """Ignore it."""

    def begin_run(self, run: str, plan: str) -> None:
        """Ignore it."""

    def end_run(self, run: str, result: RunResult | None) -> None:
        """Ignore it."""

    def call(self, run: str, record: CallRecord) -> AbstractContextManager[CallSpan]:
        """Return a context that does nothing."""
        del run, record
        return _NOTHING


_SILENCE = _Silence()
_NOTHING: AbstractContextManager[CallSpan] = nullcontext(_SILENCE)


class _Span:
    """A span of a call."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def done(self, record: CallRecord) -> None:
        self._span.set_attributes(_outcome(record))


class OpenTelemetry:
    """Sends spans to the tracer provider of the process.

    Raises
    ------
    InputError
        If OpenTelemetry is not installed.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import trace
        except ImportError:
            raise InputError(
                "OpenTelemetry is not installed", hint="Install it: pip install 'newel[otel]'"
            ) from None
        self._trace: Any = trace
        self._tracer: Any = trace.get_tracer("newel")
        self._runs: dict[str, Any] = {}

    def begin_run(self, run: str, plan: str) -> None:
        """Open the span of a run."""
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": plan,
            "gen_ai.conversation.id": run,
        }
        self._runs[run] = self._tracer.start_span(f"invoke_workflow {plan}", attributes=attributes)

    def end_run(self, run: str, result: RunResult | None) -> None:
        """Close the span of a run."""
        span = self._runs.pop(run)
        if result is None or result.status == "failed":
            self._set_error(span, result.error if result is not None else "interrupted")
        span.end()

    def call(self, run: str, record: CallRecord) -> AbstractContextManager[CallSpan]:
        """Return the span of a call, open while the context is entered."""
        return _Open(self, run, record)

    def start(self, run: str, record: CallRecord) -> Any:
        """Start the span of a call below that of its run."""
        parent = self._trace.set_span_in_context(self._runs[run]) if run in self._runs else None
        is_model = record.kind == "llm"
        name = f"chat {record.model}" if is_model else f"execute_tool {record.node}"
        kind = self._trace.SpanKind.CLIENT if is_model else self._trace.SpanKind.INTERNAL
        attributes: Attributes = {
            "gen_ai.operation.name": "chat" if is_model else "execute_tool",
            "newel.call": record.name,
            "newel.node": record.node,
        }
        if is_model:
            attributes |= {"gen_ai.request.model": record.model, "gen_ai.request.stream": True}
        else:
            attributes["gen_ai.tool.name"] = record.node
        return self._tracer.start_span(name, context=parent, kind=kind, attributes=attributes)

    def _set_error(self, span: Any, reason: str) -> None:
        span.set_attribute("error.type", "run_failed")
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, reason))

    def fail(self, span: Any, error: BaseException) -> None:
        """Mark a span as failed."""
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(error)))


class _Open:
    """The open span of a call."""

    def __init__(self, tracer: OpenTelemetry, run: str, record: CallRecord) -> None:
        self._tracer = tracer
        self._span = tracer.start(run, record)

    def __enter__(self) -> CallSpan:
        return _Span(self._span)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is not None:
            self._tracer.fail(self._span, error)
        self._span.end()


def _outcome(record: CallRecord) -> Attributes:
    found: Attributes = {"newel.waited_s": record.waited_s, "newel.framework_s": record.framework_s}
    if record.kind != "llm":
        return found
    server = urlsplit(record.server)
    found |= {
        "gen_ai.response.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.response.finish_reasons": [record.finish],
        "server.address": server.hostname or "",
        "server.port": server.port or (443 if server.scheme == "https" else 80),
    }
    if record.first_s is not None and record.start_s is not None:
        found["gen_ai.response.time_to_first_chunk"] = record.first_s - record.start_s
    return found


def tracer_of(wanted: bool) -> Tracer:
    """Return the tracer of the process, or one that records nothing.

    Raises
    ------
    InputError
        If spans are wanted and OpenTelemetry is not installed.
    """
    return OpenTelemetry() if wanted else _SILENCE
