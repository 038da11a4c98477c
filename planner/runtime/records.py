"""What happened in a run: one record per call, and the result of the whole."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

CallStatus = Literal["waiting", "running", "done", "skipped", "failed", "cancelled"]
RunStatus = Literal["done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request of a model call: times from the start of the run, tokens (None: the server did not say)."""

    model: str
    start_s: float
    first_s: float
    end_s: float
    prompt_tokens: int | None
    prompt_chars: int
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """A call as it went; times in seconds from the start of the run, None where it did not come to that.

    `ready_s`: all that it needed was there; `start_s`: the first request was sent; `first_s`: first token;
    `end_s`: last token. `waited_s` was spent waiting for slots, rates and retries, `framework_s` in this
    program. Token counts are the server's if `counted`, else pieces of the stream. `evidence` is the share of
    the planned inputs that a staircase began with; `requests` are those that were answered.
    """

    name: str
    node: str
    kind: str
    model: str = ""
    server: str = ""
    status: CallStatus = "waiting"
    ready_s: float | None = None
    start_s: float | None = None
    first_s: float | None = None
    end_s: float | None = None
    waited_s: float = 0.0
    framework_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    num_pieces: int = 0
    counted: bool = False
    num_attempts: int = 0
    num_rounds: int = 0
    usd: float = 0.0
    finish: str = ""
    error: str = ""
    reused: bool = False
    evidence: float | None = None
    requests: list[RequestRecord] = field(default_factory=list[RequestRecord])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The outcome of a run.

    `answers` holds what each final call wrote; `text` is all of it. `framework_s` is the time of this program
    over all calls, `model_s` that of models and tools, `waited_s` what was spent in queues and retries.
    `branches` maps ``source -> target`` to how often the edge was taken and how often that was decided.
    """

    plan: str
    run: str
    status: RunStatus
    error: str
    answers: dict[str, str]
    calls: tuple[CallRecord, ...]
    notes: tuple[str, ...]
    ttft_s: float | None
    latency_s: float
    usd: float
    predicted: dict[str, float] = field(default_factory=dict[str, float])
    branches: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])

    @property
    def text(self) -> str:
        """What the final calls wrote, in the order of the graph."""
        return "\n\n".join(self.answers.values())

    @property
    def model_s(self) -> float:
        """Seconds that models and tools worked, over all calls."""
        return sum(c.end_s - c.start_s for c in self.calls if c.end_s is not None and c.start_s is not None)

    @property
    def framework_s(self) -> float:
        """Seconds that this program took, over all calls."""
        return sum(c.framework_s for c in self.calls)

    @property
    def waited_s(self) -> float:
        """Seconds that calls waited for slots, rates and retries."""
        return sum(c.waited_s for c in self.calls)

    def as_dict(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "run": self.run,
            "plan": self.plan,
            "status": self.status,
            "error": self.error,
            "answers": dict(self.answers),
            "ttft_s": self.ttft_s,
            "latency_s": self.latency_s,
            "usd": self.usd,
            "model_s": self.model_s,
            "waited_s": self.waited_s,
            "framework_s": self.framework_s,
            "predicted": dict(self.predicted),
            "branches": {name: list(counts) for name, counts in self.branches.items()},
            "notes": list(self.notes),
            "calls": [record_data(call) for call in self.calls],
        }


def record_data(call: CallRecord) -> dict[str, object]:
    """Return a record as plain data."""
    plain = {name: getattr(call, name) for name in CallRecord.__slots__}
    plain["requests"] = [asdict(request) for request in call.requests]
    return plain
