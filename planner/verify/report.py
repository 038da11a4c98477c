"""What the checker found: one finding per rule, with the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One way in which a plan breaks a rule: in words, and the numbers that show it."""

    message: str
    numbers: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule says about a plan. A rule is skipped if one that it rests on has failed."""

    rule: str
    outcome: Outcome
    message: str
    numbers: tuple[tuple[str, float], ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the rule holds."""
        return self.outcome == "passed"

    def as_dict(self) -> Mapping[str, object]:
        """Return the finding as plain values."""
        return {
            "rule": self.rule,
            "passed": self.passed,
            "outcome": self.outcome,
            "message": self.message,
            "numbers": dict(self.numbers),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationReport:
    """All findings, in the order in which the rules were tried."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return all(f.outcome != "failed" for f in self.findings)

    @property
    def failed_rules(self) -> tuple[str, ...]:
        """Names of the rules that failed."""
        return tuple(f.rule for f in self.findings if f.outcome == "failed")

    def as_dict(self) -> Mapping[str, object]:
        """Return the report as plain values."""
        return {"passed": self.passed, "findings": [f.as_dict() for f in self.findings]}
