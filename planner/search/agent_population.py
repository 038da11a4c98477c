"""Better orders for a schedule whose modes are settled: a genetic search over keys with justification.

Whole populations are scheduled at once (see `planner.search.serial_schedules`). A schedule's keys are the
places of its tasks when they are taken from the last end to the first. A child has each key from one of the
best with a fixed chance, else from anyone; it is scheduled backwards by its keys, then forwards by its
starts. Where ends of single tasks count, which pushing all to the right would lose, keys are the places of
starts and a child is scheduled forwards only. Some of each generation are drawn anew. Long problems are
searched on a coarser clock and the best orders placed again on their own. Work is counted: same seed, same
answer, unless the deadline cuts it short. Sources: Goncalves, Resende, Mendes, "A biased random-key genetic
algorithm with forward-backward improvement for the resource constrained project scheduling problem", Journal
of Heuristics 17, 2011; Valls, Ballestin, Quintanilla, "Justification and RCPSP", EJOR 165(2), 2005.
"""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.ir.scheduling_problem import Mode, Run, Schedule, SchedulingProblem, lag_s
from planner.search.heft import placed_again, topological_order
from planner.search.serial_schedules import Ints, SerialScheduler, Tasks, turned

Floats = NDArray[np.float64]
_MAX_ROWS, _MIN_ROWS = 1024, 32
_LEAST_GENERATIONS = 40
_NUM_ISLANDS = 7
_ISLAND_SHARE = 0.11
_NEAR_SHARE = 0.1
_NEAR_NOISE = 0.1
_ELITE_SHARE, _NEW_SHARE = 0.15, 0.1
_ELITE_CHANCE = 0.7
"""What a generation keeps, what is drawn anew, and the chance that a child has a key of its better parent."""
_EXACT_SLOTS, _COARSE_SLOTS = 1_500, 512
_HORIZON_SHARE, _COARSE_HORIZON_SHARE = 1.15, 1.4
_MIN_TASKS, _MAX_TASKS = 20, 2_000
_MAX_CAPACITY = 1 << 30
_MAX_PLACED_AGAIN = 3_000
"""Tasks, over all orders of a coarse clock that are placed again on the true one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much to search: placements of single tasks, and the monotonic time at which to stop regardless.

    Threads share the rows of a population; how many there are does not change what is found.
    """

    num_placements: int
    deadline: float = math.inf
    num_threads: int = 1


class SearchInterrupted(KeyboardInterrupt):
    """The user's interrupt, with the best schedule by then."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__()
        self.schedule = schedule


def is_improvable(problem: SchedulingProblem) -> bool:
    """Whether the search can handle a problem once its modes are settled, and its size is worth it."""
    return (
        _MIN_TASKS <= len(problem.tasks) <= _MAX_TASKS
        and problem.period_s is None
        and any(r.renewable for r in problem.resources)
        and all(r.capacity < _MAX_CAPACITY for r in problem.resources)
        and all(lag.lag_s >= 0 for lag in problem.lags)
        and topological_order(problem) is not None
    )


def improved_schedule(
    problem: SchedulingProblem, start: Schedule, *, target: float, effort: Effort, seed: int
) -> Schedule:
    """Return the best schedule found from `start`, in its modes; it stops at an objective of `target`.

    Islands evolve apart, so that they do not all end in the first good valley; the best of each then
    evolve together.
    """
    clock = _clock(problem, start)
    if clock is None:
        return start
    constant = sum(t.modes[r.mode].cost for t, r in zip(problem.tasks, start.runs, strict=True))
    with ThreadPoolExecutor(effort.num_threads) as threads:
        generator = np.random.default_rng(seed)
        evolution = _Evolution(clock, (target - constant) / clock.slot, effort, generator, threads)
        try:
            found = evolution.run()
        except KeyboardInterrupt as stop:
            raise SearchInterrupted(_best(problem, start, evolution.best[None, :], clock.slot)) from stop
    return _best(problem, start, found, clock.slot)


def _best(problem: SchedulingProblem, start: Schedule, found: Ints, slot: int) -> Schedule:
    """Return the best of a schedule and of rows of starts, placed on the true clock."""
    best = start
    for starts in found:
        runs = tuple(
            Run(mode=r.mode, start_s=float(s) * slot, end_s=float(s) * slot)
            for r, s in zip(start.runs, starts, strict=True)
        )
        placed = placed_again(problem, Schedule(runs=runs))
        if placed is not None and problem.objective(placed) < problem.objective(best):
            best = placed
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Clock:
    """A problem in its settled modes, in slots of `slot` units of its time, and its first starts."""

    slot: int
    horizon: int
    tasks: Tasks
    lengths: Ints
    deadlines: Ints
    weights: Floats
    makespan_weight: float
    first: Ints

    def values(self, starts: Ints) -> Floats:
        """Return the objective of every row, infinite where something is late or past the horizon."""
        ends = starts + self.lengths
        values = self.makespan_weight * ends.max(axis=1) + ends @ self.weights
        late = (starts >= self.horizon).any(axis=1) | (ends > self.deadlines).any(axis=1)
        return np.where(late, np.inf, values)


def _clock(problem: SchedulingProblem, start: Schedule) -> _Clock | None:
    """Return the problem on a clock fine enough; None if a task alone exceeds a resource."""
    end = max(r.end_s for r in start.runs)
    slot = 1 if end <= _EXACT_SLOTS else math.ceil(end / _COARSE_SLOTS)
    share = _HORIZON_SHARE if slot == 1 else _COARSE_HORIZON_SHARE
    horizon = int(end / slot * share) + 2
    modes = [t.modes[r.mode] for t, r in zip(problem.tasks, start.runs, strict=True)]
    tasks = _tasks(problem, start, modes, slot)
    if (tasks.demands > tasks.capacities).any() or int(tasks.holds.max(initial=0)) > horizon:
        return None
    late = [math.inf if t.deadline_s is None else t.deadline_s for t in problem.tasks]
    return _Clock(
        slot=slot,
        horizon=horizon,
        tasks=tasks,
        lengths=np.array([math.ceil(m.duration_s / slot) for m in modes], dtype=np.int64),
        # a coarse clock is late by itself: the true one decides
        deadlines=np.array([min(d, 2 * end) if slot == 1 else 2 * horizon for d in late], dtype=np.int64),
        weights=np.array([t.weight for t in problem.tasks], dtype=np.float64),
        makespan_weight=problem.makespan_weight,
        first=np.array([r.start_s // slot for r in start.runs], dtype=np.int64),
    )


def _tasks(problem: SchedulingProblem, start: Schedule, modes: list[Mode], slot: int) -> Tasks:
    """Return the tasks in slots; what a task holds for different times counts as held for the longest."""
    held = [i for i, r in enumerate(problem.resources) if r.renewable]
    column = {r: i for i, r in enumerate(held)}
    demands = np.zeros((len(modes), len(held)), dtype=np.int64)
    holds = np.zeros(len(modes), dtype=np.int64)
    for t, mode in enumerate(modes):
        for demand in mode.demands:
            if demand.resource in column and demand.amount:
                demands[t, column[demand.resource]] += demand.amount
                holds[t] = max(holds[t], math.ceil(mode.hold_s(demand) / slot))
    demands[holds == 0] = 0
    arcs: list[tuple[int, int, int]] = []
    for lag in problem.lags:
        mode = start.runs[lag.after].mode
        if lag.holds(mode):
            wait = lag_s(problem, lag, start.runs[lag.before].mode, mode)
            wait += modes[lag.before].duration_s if lag.kind.startswith("end") else 0.0
            wait -= modes[lag.after].duration_s if lag.kind.endswith("end") else 0.0
            arcs.append((lag.before, lag.after, math.ceil(wait / slot)))
    return Tasks(
        holds=holds,
        demands=demands,
        capacities=np.array([problem.resources[r].capacity for r in held], dtype=np.int64),
        releases=np.array([math.ceil(t.release_s / slot) for t in problem.tasks], dtype=np.int64),
        arcs=tuple(arcs),
    )


class _Evolution:
    """Populations of one problem; a population is (starts, values), the best first."""

    def __init__(
        self,
        clock: _Clock,
        target: float,
        effort: Effort,
        generator: np.random.Generator,
        threads: ThreadPoolExecutor,
    ) -> None:
        self.clock = clock
        self.threads = threads
        self.target = target
        self.effort = effort
        self.generator = generator
        self.forward = SerialScheduler(clock.tasks, clock.horizon)
        self.backward = SerialScheduler(turned(clock.tasks), clock.horizon)
        self.left = effort.num_placements
        self.best = clock.first
        self.value = math.inf
        self.by_ends = not clock.weights.any()
        self.passes = 2 if self.by_ends else 1
        per_generation = self.passes * clock.tasks.num_tasks * _LEAST_GENERATIONS
        self.rows = min(max(effort.num_placements // max(per_generation, 1), _MIN_ROWS), _MAX_ROWS)

    def run(self) -> Ints:
        """Return the starts of the best rows: one on an exact clock, some on a coarse one."""
        share = int(self.effort.num_placements * _ISLAND_SHARE)
        islands: list[tuple[Ints, Floats]] = []
        for number in range(_NUM_ISLANDS):
            islands.append(self._evolved(self._first(near=number > 0), self.left - share))
            if self._is_over(0):
                break
        kept = max(self.rows // len(islands), 1)
        together = _population(
            np.vstack([s[:kept] for s, _ in islands]), np.concatenate([v[:kept] for _, v in islands])
        )
        starts, values = self._evolved(together, 0)
        count = 1 if self.clock.slot == 1 else max(_MAX_PLACED_AGAIN // starts.shape[1], 1)
        return starts[: min(count, int(np.isfinite(values).sum()))]

    def _is_over(self, left: int) -> bool:
        return self.left <= left or time.monotonic() >= self.effort.deadline

    def _first(self, *, near: bool) -> tuple[Ints, Floats]:
        """Return a first population; if `near`, a share of it around the schedule at hand."""
        count = self.clock.tasks.num_tasks
        keys = self.generator.random((self.rows, count))
        if near:
            first = self._keys(self.clock.first[None, :])
            some = max(round(self.rows * _NEAR_SHARE), 1)
            keys[:some] = first + self.generator.normal(0.0, _NEAR_NOISE, (some, count))
            keys[0] = first[0]
        return _population(*self._born(keys))

    def _born(self, keys: Floats) -> tuple[Ints, Floats]:
        """Return the schedules of keys and their values."""
        parts = np.array_split(keys, self.effort.num_threads)
        starts = np.vstack(list(self.threads.map(self._justified, parts)))
        self.left -= self.passes * starts.size
        values = self.clock.values(starts)
        least = int(values.argmin())
        if values[least] < self.value:
            self.best, self.value = starts[least], float(values[least])
        return starts, values

    def _justified(self, keys: Floats) -> Ints:
        """Schedule by rising key: backwards and then forwards by earliest start, or forwards alone."""
        if not self.by_ends:
            return self.forward.starts(self.forward.orders(keys))
        back = self.backward.starts(self.backward.orders(keys))
        return self.forward.starts(self.forward.orders(-(back + self.clock.tasks.holds).astype(np.float64)))

    def _evolved(self, population: tuple[Ints, Floats], left: int) -> tuple[Ints, Floats]:
        """Return the population once `left` placements are left, or the target is met."""
        starts, values = population
        kept = max(round(self.rows * _ELITE_SHARE), 1)
        while not self._is_over(left) and values[0] > self.target:
            born, fresh = self._born(self._children(starts, kept))
            # the young first: among equals the old make way, and the population drifts
            starts, values = _population(
                np.vstack([born, starts[:kept]]), np.concatenate([fresh, values[:kept]])
            )
        return starts, values

    def _children(self, starts: Ints, kept: int) -> Floats:
        """Return keys of the next generation: mixed of one of the best and anyone, and some drawn anew."""
        keys = self._keys(starts)
        num_new = round(self.rows * _NEW_SHARE)
        count = self.rows - kept - num_new
        elder = self.generator.integers(0, min(kept, len(keys)), count)
        other = self.generator.integers(0, len(keys), count)
        of_elder = self.generator.random((count, keys.shape[1])) < _ELITE_CHANCE
        mixed: Floats = np.where(of_elder, keys[elder], keys[other])
        return np.vstack([mixed, self.generator.random((num_new, keys.shape[1]))])

    def _keys(self, starts: Ints) -> Floats:
        """Return the place of every task in its row, from 0 to 1."""
        return _ranks(-(starts + self.clock.tasks.holds) if self.by_ends else starts)


def _ranks(starts: Ints) -> Floats:
    """Return the place of every task in its row's order, from 0 to 1."""
    order = np.argsort(np.argsort(starts, axis=1, kind="stable"), axis=1, kind="stable")
    return order / max(starts.shape[1] - 1, 1)


def _population(starts: Ints, values: Floats) -> tuple[Ints, Floats]:
    """Return the different rows, best first and then as they came."""
    _, first = np.unique(starts, axis=0, return_index=True)
    kept = first[np.lexsort((first, values[first]))]
    return starts[kept], values[kept]
