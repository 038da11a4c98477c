"""Better schedules for single-mode projects: a genetic search over priorities with justification.

Whole populations are scheduled at once with numpy. Each child is scheduled forwards, backwards by its
ends and forwards again by its starts. Source of the scheme: Valls, Ballestin, Quintanilla, "A hybrid
genetic algorithm for the resource-constrained project scheduling problem", EJOR 185(2), 2008. Work is
counted, not timed: same seed, same answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.ir.scheduling_problem import Run, Schedule, SchedulingProblem

_POPULATION = 96
_NEAR = (0.5, 0.0, 0.2, 0.0)
"""Share of each island that begins near to the schedule at hand."""
_MAX_HORIZON = 4_000
_MAX_TASKS = 200
_MIN_TASKS = 20
_HORIZON_SHARE = 1.3
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Project:
    """A project as arrays: durations, demands [task, resource], padded successors, horizon."""

    durations: Ints
    demands: Ints
    capacities: Ints
    successors: Ints
    num_predecessors: Ints
    horizon: int


def is_improvable(problem: SchedulingProblem) -> bool:
    """Whether the search knows how to handle a problem: one mode, plain precedence, held resources."""
    return (
        _MIN_TASKS <= len(problem.tasks) <= _MAX_TASKS
        and problem.makespan_weight > 0
        and problem.period_s is None
        and all(len(t.modes) == 1 and t.release_s == 0 and t.deadline_s is None for t in problem.tasks)
        and all(t.weight == 0 for t in problem.tasks)
        and all(d.hold_s is None for _, _, d in problem.demands())
        and all(r.renewable for r in problem.resources)
        and all(g.after_modes is None for g in problem.lags)
        and all(g.kind == "end_start" and g.lag_s == 0 and g.off_site_s == 0 for g in problem.lags)
        and sum(int(t.modes[0].duration_s) for t in problem.tasks) <= _MAX_HORIZON
    )


def improved_schedule(
    problem: SchedulingProblem, start: Schedule, *, target: int, num_generations: int, seed: int
) -> Schedule:
    """Return the best schedule of a genetic search from `start`; it stops at a makespan of `target`.

    Islands evolve apart, so that they do not all end in the first good valley; the best of each then
    evolve together.
    """
    # schedules that run past the horizon are cut there and are too long to be kept
    horizon = int(max(r.end_s for r in start.runs) * _HORIZON_SHARE) + 1
    forward, backward = _project(problem, horizon, turned=False), _project(problem, horizon, turned=True)
    first = _ranked(np.array([-r.start_s for r in start.runs], dtype=np.float64))
    evolution = _Evolution(
        forward=forward, backward=backward, target=target, generator=np.random.default_rng(seed)
    )
    islands: list[tuple[Ints, Ints]] = []
    for near in _NEAR:
        starts, ends = evolution.run(evolution.born(evolution.keys(first, near)), num_generations)
        if int(ends.min()) <= target:
            break
        islands.append((starts[: _POPULATION // len(_NEAR)], ends[: _POPULATION // len(_NEAR)]))
    else:
        together = np.vstack([s for s, _ in islands]), np.concatenate([e for _, e in islands])
        starts, ends = evolution.run(together, num_generations)
    best = starts[int(np.argmin(ends))]
    runs = [
        Run(mode=0, start_s=int(s), end_s=int(s) + t.modes[0].duration_s)
        for s, t in zip(best, problem.tasks, strict=True)
    ]
    found = Schedule(runs=tuple(runs))
    return found if ends.min() < max(r.end_s for r in start.runs) else start


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evolution:
    """What populations of one problem have in common; a population is (starts, ends)."""

    forward: _Project
    backward: _Project
    target: int
    generator: np.random.Generator

    def keys(self, first: Floats, near: float) -> Floats:
        """Return the orders of a first population, a share of them near to a known one."""
        keys = self.generator.random((_POPULATION, len(first)))
        count = round(_POPULATION * near)
        keys[:count] = first[None, :] + self.generator.normal(0, 0.1, (count, len(first)))
        keys[0] = first
        return keys

    def born(self, keys: Floats) -> tuple[Ints, Ints]:
        """Return the schedules of orders."""
        starts = _justified(self.forward, self.backward, keys)
        return starts, (starts + self.forward.durations).max(axis=1)

    def run(self, population: tuple[Ints, Ints], num_generations: int) -> tuple[Ints, Ints]:
        """Return the population after so many generations, the best first."""
        starts, ends = _survivors(*population)
        for _ in range(num_generations):
            if int(ends.min()) <= self.target:
                break
            born, lengths = self.born(_children(starts, ends, self.generator))
            starts, ends = _survivors(np.vstack([starts, born]), np.concatenate([ends, lengths]))
        return starts, ends


def _project(problem: SchedulingProblem, horizon: int, *, turned: bool) -> _Project:
    count = len(problem.tasks)
    demands = np.zeros((count, max(len(problem.resources), 1)), dtype=np.int64)
    for t, _, demand in problem.demands():
        demands[t, demand.resource] += demand.amount
    after: list[list[int]] = [[] for _ in range(count)]
    for before, later in {(g.before, g.after) for g in problem.lags}:
        after[later if turned else before].append(before if turned else later)
    width = max(1, *(len(a) for a in after))
    successors = np.full((count, width), count, dtype=np.int64)
    waiting = np.zeros(count + 1, dtype=np.int64)
    for t, targets in enumerate(after):
        successors[t, : len(targets)] = sorted(targets)
        for target in targets:
            waiting[target] += 1
    return _Project(
        durations=np.array([int(t.modes[0].duration_s) for t in problem.tasks], dtype=np.int64),
        demands=demands,
        capacities=np.array([r.capacity for r in problem.resources] or [0], dtype=np.int64),
        successors=successors,
        num_predecessors=waiting,
        horizon=horizon,
    )


def _ranked(values: Floats) -> Floats:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") / max(len(values) - 1, 1)


def _schedules(project: _Project, keys: Floats) -> Ints:
    """Return serial schedules for every row of keys: the highest key among the ready tasks goes first."""
    rows, count = keys.shape
    row: Ints = np.arange(rows, dtype=np.int64)
    slots = project.horizon + int(project.durations.max(initial=0)) + 1
    free = np.broadcast_to(project.capacities[None, :, None], (rows, len(project.capacities), slots)).copy()
    # one column more: padded successors point there
    earliest = np.zeros((rows, count + 1), dtype=np.int64)
    waiting = np.broadcast_to(project.num_predecessors, (rows, count + 1)).copy()
    waiting[:, count] = 1 << 30
    starts = np.zeros((rows, count), dtype=np.int64)
    masked = np.where(waiting[:, :count] == 0, keys, -np.inf)
    times = np.arange(project.horizon + 1)
    for _ in range(count):
        task = masked.argmax(axis=1)
        length = project.durations[task]
        tight = (free < project.demands[task][:, :, None]).any(axis=1)
        blocked = np.zeros((rows, slots + 1), dtype=np.int32)
        np.cumsum(tight, axis=1, out=blocked[:, 1:])
        ends = np.minimum(times[None, :] + length[:, None], slots)
        fits = blocked[row[:, None], ends] == blocked[:, : project.horizon + 1]
        fits &= times[None, :] >= earliest[row, task][:, None]
        begin = np.where(fits.any(axis=1), fits.argmax(axis=1), project.horizon)
        starts[row, task] = begin
        held = (np.arange(slots)[None, :] >= begin[:, None]) & (
            np.arange(slots)[None, :] < (begin + length)[:, None]
        )
        free -= project.demands[task][:, :, None] * held[:, None, :]
        targets = project.successors[task]
        earliest[row[:, None], targets] = np.maximum(
            earliest[row[:, None], targets], (begin + length)[:, None]
        )
        waiting[row[:, None], targets] -= 1
        masked[row, task] = -np.inf
        ready = (waiting[row[:, None], targets] == 0) & (targets < count)
        lanes, places = np.nonzero(ready)
        nodes = targets[lanes, places]
        masked[lanes, nodes] = keys[lanes, nodes]
    return starts


def _justified(forward: _Project, backward: _Project, keys: Floats) -> Ints:
    """Schedule forwards, backwards by latest end first, and forwards by earliest start first."""
    starts = _schedules(forward, keys)
    turned = _schedules(backward, (starts + forward.durations).astype(np.float64))
    return _schedules(forward, turned.astype(np.float64) + forward.durations)


def _children(starts: Ints, ends: Ints, generator: np.random.Generator) -> Floats:
    """Mix the orders of two parents chosen by tournament, and disturb some."""
    rows, count = starts.shape
    order: Floats = np.argsort(np.argsort(-starts, axis=1, kind="stable"), axis=1, kind="stable") / max(
        count - 1, 1
    )
    pairs = generator.integers(0, rows, (2, 2, rows))
    parents = np.where(ends[pairs[:, 0]] <= ends[pairs[:, 1]], pairs[:, 0], pairs[:, 1])
    times = starts[parents[0]]
    span = np.maximum(ends[parents[0]], 1)[:, None]
    cut = generator.random((2, rows))
    low, high = np.minimum(cut[0], cut[1])[:, None] * span, np.maximum(cut[0], cut[1])[:, None] * span
    inside = (times >= low) & (times < high)
    mixed: Floats = np.where(inside, order[parents[0]], order[parents[1]])
    noise: Floats = generator.normal(0.0, 1.0, mixed.shape) * generator.choice([0.0, 0.02, 0.08], (rows, 1))
    return mixed + noise


def _survivors(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """Keep the best different ones."""
    _, unique = np.unique(starts, axis=0, return_index=True)
    kept = unique[np.argsort(ends[unique], kind="stable")][:_POPULATION]
    return starts[kept], ends[kept]
