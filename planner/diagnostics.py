"""Diagnostics: what a phase wants the user to know without stopping.

Phases append to a `Diagnostics` that the pipeline hands them; the CLI prints it on stderr and
the plan carries it. Nothing is repaired, clamped or defaulted without a line in here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["note", "warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One remark: `code` is stable and greppable, `message` is for people."""

    severity: Severity
    code: str
    message: str


@dataclass(slots=True, kw_only=True)
class Diagnostics:
    """Collects remarks, each code and message once, and passes progress to whoever listens."""

    entries: list[Diagnostic] = field(default_factory=list[Diagnostic])
    on_progress: Callable[[str], None] | None = None

    def note(self, code: str, message: str) -> None:
        """Record something worth knowing."""
        self.take(Diagnostic(severity="note", code=code, message=message))

    def warn(self, code: str, message: str) -> None:
        """Record something that makes the answer weaker than it looks."""
        self.take(Diagnostic(severity="warning", code=code, message=message))

    def progress(self, message: str) -> None:
        """Tell the listener, if any, what is being done now."""
        if self.on_progress is not None:
            self.on_progress(message)

    def take(self, entry: Diagnostic) -> None:
        """Record a remark made elsewhere, unless it is known already."""
        if entry not in self.entries:
            self.entries.append(entry)
