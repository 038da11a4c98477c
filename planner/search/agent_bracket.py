"""A bracket around the shortest makespan, narrowed from both sides by asking for schedules within a limit.

A solver refutes a limit below the optimum far sooner when it is asked for that limit alone than while it
improves a schedule. So limits inside the bracket are tried, several at once where there are cores: what is
refuted raises the bound, what is found lowers the makespan, and what stays open at one effort is tried again
with twice of it.
Source of destructive bounds: Klein, Scholl, "Computing lower bounds by destructive improvement", EJOR 112(2),
1999.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_LEAST_SHARE = 0.01
"""What an attempt counts at least, in parts of what it might have taken, so that any budget ends."""

_FINENESS = 8
"""A level ends once what is left below its lowest open limit is less than this part of the bracket."""

Outcome = Literal["refuted", "found", "open", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What came of asking for a schedule within a limit, and the effort it took.

    `makespan` is that of the schedule where one was found. `stopped` means that the user wants to end.
    """

    outcome: Outcome
    effort: float
    makespan: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """No schedule ends before `low`, one ends at `high`."""

    low: int
    high: int
    stopped: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether the schedule at hand is proved shortest."""
        return self.low >= self.high


Ask = Callable[[list[int], float], list[Attempt]]
"""Asks for schedules that end by limits, each with an effort, and returns what came of each."""


def narrowed(bracket: Bracket, ask: Ask, *, width: int, first_effort: float, budget: float) -> Bracket:
    """Return a narrower bracket after attempts of `first_effort` and more, `width` at once, `budget` in all.

    Attempts that are made at once count as one.
    """
    search = _Narrowing(bracket, ask, width, first_effort, budget)
    while search.goes_on:
        search.level()
    return Bracket(low=search.low, high=search.high, stopped=search.stopped)


class _Narrowing:
    """Levels of rising effort; limits that stayed open at one are the first of the next, lowest first."""

    def __init__(self, bracket: Bracket, ask: Ask, width: int, effort: float, budget: float) -> None:
        self.low, self.high, self.stopped = bracket.low, bracket.high, False
        self.ask = ask
        self.width = width
        self.effort = effort
        self.budget = budget
        self.open: list[int] = []

    @property
    def goes_on(self) -> bool:
        """Whether the bracket is open and there is effort left."""
        return self.low < self.high and self.budget > 0 and not self.stopped

    def level(self) -> None:
        """Find nearly the lowest limit that stays open at this effort, then try to beat the best schedule."""
        waiting, self.open = sorted(self.open), []
        while self.goes_on and (self._top() - self.low) * _FINENESS > self.high - self.low:
            waiting = [limit for limit in waiting if self.low <= limit < self._top()]
            self._try(waiting[: self.width] or self._spread(self.low, self._top()))
            if self.open:
                waiting = []
        while self.goes_on and self.high - 1 not in self.open:
            others = [t for t in self._spread(self._top(), self.high) if t not in self.open]
            self._try(sorted({*others[: self.width - 1], self.high - 1}))
        self.effort *= 2

    def _top(self) -> int:
        return min([self.high, *self.open])

    def _spread(self, low: int, high: int) -> list[int]:
        """Return limits evenly between `low` and below `high`."""
        parts = self.width + 1
        return sorted({low + (high - low) * part // parts for part in range(1, parts)})

    def _try(self, limits: list[int]) -> None:
        tried = self.ask(limits, min(self.effort, self.budget))
        self.budget -= max([self.effort * _LEAST_SHARE, *(t.effort for t in tried)])
        for limit, attempt in zip(limits, tried, strict=True):
            if attempt.outcome == "refuted":
                self.low = max(self.low, limit + 1)
            elif attempt.outcome == "found":
                self.high = min(self.high, attempt.makespan)
            elif attempt.outcome == "open":
                self.open.append(limit)
            else:
                self.stopped = True
