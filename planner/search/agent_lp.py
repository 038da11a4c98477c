"""The linear relaxation of a scheduling problem: a bound for problems too large to prove, and modes to try.

Variables: start s_t, share x_tm of mode m, makespan C. A call may be spread over its modes, and nothing
overlaps in order but only in total: capacity times time is at least the work, per resource and window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ortools.math_opt.python import mathopt

from planner.ir.scheduling_problem import SchedulingProblem
from planner.search.agent_bounds import Bounds, Window, lag_rows
from planner.search.agent_model import Weights
from planner.search.mip import Expression, at_least, at_most, exactly, total

_MAX_WINDOWS = 200
_MAX_FINALS = 64
_SAFETY = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """`bound` in units of the weights; per task the shares of its modes, and a start in ticks."""

    bound: float
    shares: tuple[tuple[float, ...], ...]
    starts: tuple[float, ...]


def relaxed(problem: SchedulingProblem, limits: Bounds, weights: Weights) -> Relaxation | None:
    """Return the linear relaxation of a problem in ticks; None if it is not solved to its optimum.

    Without any solution the bound is infinite and there are no shares.
    """
    return _Model(problem, limits, weights).solved()


class _Model:
    def __init__(self, problem: SchedulingProblem, limits: Bounds, weights: Weights) -> None:
        self.problem = problem
        self.limits = limits
        self.model = mathopt.Model()
        self.starts = [self.model.add_variable(lb=float(head)) for head in limits.heads]
        self.shares: list[list[mathopt.Variable]] = []
        for task in problem.tasks:
            if task.twin is not None:
                self.shares.append(self.shares[task.twin])
                continue
            row = [self.model.add_variable(lb=0.0, ub=1.0) for _ in task.modes]
            exactly(self.model, list(row), 1.0)
            self.shares.append(row)
        self.demands = [
            (t, m, d)
            for t, m, d in problem.demands()
            if problem.resources[d.resource].renewable and problem.resources[d.resource].capacity
        ]
        self.makespan = self.model.add_variable(lb=float(limits.makespan))
        self.lengths = [self._length(t) for t in range(len(problem.tasks))]
        self._times()
        self._needs()
        self._budgets()
        self._loads()
        self._objective(weights)

    def solved(self) -> Relaxation | None:
        """Solve it."""
        result = mathopt.solve(self.model, mathopt.SolverType.GLOP)
        if result.termination.reason == mathopt.TerminationReason.INFEASIBLE:
            return Relaxation(bound=math.inf, shares=(), starts=())
        if result.termination.reason != mathopt.TerminationReason.OPTIMAL:
            return None
        values = result.variable_values()
        value = result.objective_value()
        return Relaxation(
            bound=value - _SAFETY * abs(value),
            shares=tuple(tuple(values[x] for x in row) for row in self.shares),
            starts=tuple(values[s] for s in self.starts),
        )

    def _length(self, t: int) -> mathopt.LinearBase:
        modes = self.problem.tasks[t].modes
        return total([m.duration_s * x for m, x in zip(modes, self.shares[t], strict=True)])

    def _end(self, t: int) -> mathopt.LinearBase:
        return self.starts[t] + self.lengths[t]

    def _times(self) -> None:
        """Add lags without what moving between sites adds, deadlines and the makespan."""
        for lag in self.problem.lags:
            if lag.after_modes is not None:
                continue
            before = self._end(lag.before) if lag.kind.startswith("end") else self.starts[lag.before]
            after = self._end(lag.after) if lag.kind.endswith("end") else self.starts[lag.after]
            at_least(self.model, [after - before], lag.lag_s)
        self._times_by_mode()
        for t, task in enumerate(self.problem.tasks):
            if task.deadline_s is not None:
                at_most(self.model, [self._end(t)], task.deadline_s)
            at_least(self.model, [self.makespan - self._end(t)])

    def _times_by_mode(self) -> None:
        """Add what lags of single modes ask for on the average of modes."""
        for row in lag_rows(self.problem):
            after = self._end(row.after) if row.ends else self.starts[row.after]
            before = self._end(row.before) if row.ends else self.starts[row.before]
            terms = [-float(c) * self.shares[row.after][m] for m, c in row.after_terms]
            terms += [-float(c) * self.shares[row.before][m] for m, c in row.before_terms]
            at_least(self.model, [after - before, *terms])

    def _needs(self) -> None:
        """Add that modes of one task which need another at a site are used no more than that site is."""
        for t, task in enumerate(self.problem.tasks):
            if task.twin is not None:
                continue
            users: dict[tuple[int, str], list[Expression]] = {}
            for mode, share in zip(task.modes, self.shares[t], strict=True):
                for need in mode.needs:
                    users.setdefault(need, []).append(share)
            for (other, site), group in users.items():
                modes = zip(self.problem.tasks[other].modes, self.shares[other], strict=True)
                at_most(self.model, [*group, *(-x for m, x in modes if m.site == site)])

    def _budgets(self) -> None:
        terms: dict[int, list[Expression]] = {}
        for t, m, demand in self.problem.demands():
            resource = self.problem.resources[demand.resource]
            if not resource.renewable and demand.amount:
                capacity = max(resource.capacity, 1)
                terms.setdefault(demand.resource, []).append(demand.amount / capacity * self.shares[t][m])
        for index, group in terms.items():
            at_most(self.model, group, 1.0 if self.problem.resources[index].capacity else 0.0)

    def _loads(self) -> None:
        """Add capacity (until - head - tail) >= work per window, and that what z waits for ends before it."""
        windows = sorted(self.limits.windows, key=lambda w: -w.least_makespan)[:_MAX_WINDOWS]
        for window in windows:
            self._load(window)
        self._finals()

    def _load(self, window: Window) -> None:
        energy: list[Expression] = [-e / window.capacity * self.shares[t][m] for t, m, e in window.terms]
        until = self.makespan if window.until is None else self._end(window.until)
        at_least(self.model, [until, *energy], float(window.head + window.tail))

    def _finals(self) -> None:
        """Add that before a weighted task what it waits for is done and what it streams from has begun.

        Of the latter no more is left at its start than all capacity does in the longest hold.
        """
        weighted = [t for t, task in enumerate(self.problem.tasks) if task.weight > 0]
        if not 0 < len(weighted) <= _MAX_FINALS:
            return
        ended: list[list[int]] = [[] for _ in self.problem.tasks]
        begun: list[list[int]] = [[] for _ in self.problem.tasks]
        for lag in self.problem.lags:
            if lag.lag_s >= 0 and lag.kind in ("end_start", "start_start"):
                begun[lag.after].append(lag.before)
                if lag.kind == "end_start":
                    ended[lag.after].append(lag.before)
        for before, left in ((ended, False), (begun, True)):
            groups: dict[frozenset[int], list[int]] = {}
            for final in weighted:
                groups.setdefault(frozenset(_ancestors(before, final)), []).append(final)
            for above, finals in groups.items():
                self._done_before(finals, above, left=left)

    def _done_before(self, finals: list[int], above: frozenset[int], *, left: bool) -> None:
        """Add capacity (start + longest hold if some may be left) >= work of the tasks above."""
        first = self.model.add_variable(lb=0.0)
        for final in finals:
            at_least(self.model, [self.starts[final] - first])
        energy: dict[int, list[Expression]] = {}
        longest: dict[int, float] = {}
        for t, m, demand in self.demands:
            if t not in above:
                continue
            mode = self.problem.tasks[t].modes[m]
            held = mode.hold_s(demand) if left else min(mode.hold_s(demand), mode.duration_s)
            work = demand.amount * held / self.problem.resources[demand.resource].capacity
            energy.setdefault(demand.resource, []).append(-work * self.shares[t][m])
            longest[demand.resource] = max(longest.get(demand.resource, 0.0), held)
        for resource, group in energy.items():
            at_least(self.model, [first, *group], -longest[resource] if left else 0.0)

    def _objective(self, weights: Weights) -> None:
        terms: list[Expression] = [float(weights.makespan) * self.makespan]
        terms += [float(w) * self._end(t) for t, w in enumerate(weights.ends) if w]
        for row, costs in zip(self.shares, weights.costs, strict=True):
            terms += [float(c) * x for c, x in zip(costs, row, strict=True) if c]
        self.model.minimize(total(terms))


def _ancestors(before: list[list[int]], task: int) -> set[int]:
    seen: set[int] = set()
    left = list(before[task])
    while left:
        at = left.pop()
        if at not in seen:
            seen.add(at)
            left += before[at]
    return seen


def promising(problem: SchedulingProblem, relaxation: Relaxation, *, least: float) -> list[list[int]]:
    """Return per task the modes that the relaxation uses by a share of `least` or the most of all."""
    found: list[list[int]] = []
    for task, shares in zip(problem.tasks, relaxation.shares, strict=True):
        most = max(shares, default=0.0)
        used = [m for m, share in enumerate(shares) if share >= min(least, most) and math.isfinite(share)]
        found.append(used or list(range(len(task.modes))))
    return found
