"""What is known of calls and edges while a plan runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Literal

from planner.runtime.compiled import CallPlan, EdgePlan
from planner.runtime.records import CallRecord

EdgeOutcome = Literal["pending", "live", "void", "dead"]
"""live: data is there; void: the producer failed and is done without; dead: the branch was not taken."""


@dataclass(slots=True, kw_only=True)
class EdgeState:
    """An edge: its outcome, and for a stream the lengths of text (characters) that were handed over."""

    plan: EdgePlan
    outcome: EdgeOutcome = "pending"
    offsets: list[int] = field(default_factory=list[int])
    text: str | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the consumer may use it before the producer is done."""
        return self.plan.kind in ("staircase", "overlap")

    def next_mark(self) -> float:
        """Return the cumulative tokens at which the next piece is handed over.

        The planned end is no hand-over (the real end is one); a producer that writes on hands over chunks of
        the last size.
        """
        marks, k = self.plan.boundaries, len(self.offsets)
        if not marks:
            return inf
        if k < len(marks) - 1:
            return marks[k]
        end = marks[-1]
        last = end - (marks[len(marks) - 2] if len(marks) > 1 else 0.0)
        return end + max(last, 1.0) * (k - len(marks) + 2)


@dataclass(slots=True, kw_only=True)
class CallState:
    """A call while a plan runs.

    `visible` is the text that others may see; a repeated attempt writes to `attempt` until it has
    caught up. `pending`, `live` and `void` count in-edges. `round` is the round of a staircase.
    """

    plan: CallPlan
    record: CallRecord
    pending: int
    live: int = 0
    void: int = 0
    task: asyncio.Task[None] | None = None
    warming: asyncio.Task[None] | None = None
    visible: list[str] = field(default_factory=list[str])
    visible_chars: int = 0
    attempt: list[str] = field(default_factory=list[str])
    attempt_chars: int = 0
    tokens: float = 0.0
    next_mark: float = inf
    num_items: int = 0
    round: int = 0
    news: asyncio.Event | None = None
    told_chars: int = 0
    restarted: bool = False
    ready_at_s: float = 0.0
    inherited: str | None = None

    @property
    def text(self) -> str:
        """What the call has written so far."""
        return "".join(self.visible)

    @property
    def is_settled(self) -> bool:
        """Whether nothing more will come of it."""
        return self.record.status in ("done", "skipped", "failed", "cancelled")

    def begin_attempt(self) -> None:
        """Start the text anew; what is visible stays until the new text is as long."""
        self.attempt, self.attempt_chars = [], 0
        self.tokens = 0.0

    def continue_attempt(self) -> None:
        """Go on behind what is visible."""
        self.attempt, self.attempt_chars = self.visible, self.visible_chars

    def add(self, text: str, tokens: float) -> bool:
        """Add a piece; return whether others can see more than before."""
        self.attempt.append(text)
        self.attempt_chars += len(text)
        self.tokens += tokens
        if self.attempt_chars <= self.visible_chars and self.attempt is not self.visible:
            return False
        if self.attempt is not self.visible:
            if self.visible and not "".join(self.attempt).startswith("".join(self.visible)):
                self.restarted = True
            self.visible = self.attempt
        self.visible_chars = self.attempt_chars
        return True

    def end_attempt(self) -> None:
        """Make the finished attempt visible, however long it is."""
        if self.attempt is not self.visible:
            self.restarted = self.restarted or not "".join(self.attempt).startswith("".join(self.visible))
            self.visible, self.visible_chars = self.attempt, self.attempt_chars
