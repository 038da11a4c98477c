"""A bracket around the shortest makespan, narrowed from both sides by asking for schedules within a limit.

A solver refutes a limit below the optimum far sooner when it is asked for that limit alone than while it
improves a schedule. So limits are tried in the middle of the bracket: what is refuted raises the bound, what
is found lowers the makespan, and what stays open at one effort is tried again with twice of it.
Source of destructive bounds: Klein, Scholl, "Computing lower bounds by destructive improvement", EJOR 112(2),
1999.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_LEAST_SHARE = 0.01
"""What an attempt counts at least, in parts of what it might have taken, so that any budget ends."""

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


def narrowed(
    bracket: Bracket, attempt: Callable[[int, float], Attempt], *, first_effort: float, budget: float
) -> Bracket:
    """Return a narrower bracket after attempts of `first_effort` and more, `budget` in all.

    `attempt(limit, effort)` asks for a schedule that ends by `limit`.
    """
    search = _Narrowing(bracket, attempt, first_effort, budget)
    while search.goes_on:
        search.level()
    return Bracket(low=search.low, high=search.high, stopped=search.stopped)


class _Narrowing:
    """Levels of rising effort; limits that stayed open at one are the first of the next, lowest first."""

    def __init__(
        self, bracket: Bracket, attempt: Callable[[int, float], Attempt], effort: float, budget: float
    ) -> None:
        self.low, self.high, self.stopped = bracket.low, bracket.high, False
        self.attempt = attempt
        self.effort = effort
        self.budget = budget
        self.open: list[int] = []

    @property
    def goes_on(self) -> bool:
        """Whether the bracket is open and there is effort left."""
        return self.low < self.high and self.budget > 0 and not self.stopped

    def level(self) -> None:
        """Find the lowest limit that stays open at this effort, then try to beat the schedule at hand."""
        waiting, self.open = sorted(self.open), []
        while self.goes_on and self.low < self._top():
            waiting = [limit for limit in waiting if self.low <= limit < self._top()]
            limit = waiting[0] if waiting else (self.low + self._top()) // 2
            if self._try(limit) == "open":
                waiting = []
        while self.goes_on and self.high - 1 not in self.open:
            self._try(self.high - 1)
        self.effort *= 2

    def _top(self) -> int:
        return min([self.high, *self.open])

    def _try(self, limit: int) -> Outcome:
        tried = self.attempt(limit, min(self.effort, self.budget))
        self.budget -= max(tried.effort, self.effort * _LEAST_SHARE)
        if tried.outcome == "refuted":
            self.low = max(self.low, limit + 1)
        elif tried.outcome == "found":
            self.high = min(self.high, tried.makespan)
        elif tried.outcome == "open":
            self.open.append(limit)
        else:
            self.stopped = True
        return tried.outcome
