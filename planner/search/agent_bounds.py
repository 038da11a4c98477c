"""Bounds that a scheduling problem carries in itself: heads, tails and loads of resources.

Everything is in ticks (whole numbers). The redundant lines `capacity * makespan >= work`, per resource
and per window of heads and tails, are what turns found optima into proved ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from planner.ir.scheduling_problem import Lag, SchedulingProblem

_MAX_WINDOWS_PER_RESOURCE = 24
_MAX_CORNERS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """capacity * (makespan - head - tail) >= sum of energy over `terms`.

    `terms` are (task, mode, energy): what the task occupies in that mode, capacity units times ticks.
    `least_queue` bounds makespan - head - tail by counting: of more tasks than fit at once some wait.
    Where all of `terms` lead to one task and nowhere else, its end (`until`) takes the makespan's place.
    """

    resource: int
    capacity: int
    head: int
    tail: int
    terms: tuple[tuple[int, int, int], ...]
    least_energy: int
    least_queue: int = 0
    until: int | None = None

    @property
    def least_makespan(self) -> int:
        """The bound with every task in its least demanding mode."""
        return self.head + self.tail + max(-(-self.least_energy // max(self.capacity, 1)), self.least_queue)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Earliest start and least time from start to the end of everything, per task, in ticks."""

    heads: tuple[int, ...]
    tails: tuple[int, ...]
    windows: tuple[Window, ...]
    makespan: int


def bounds(problem: SchedulingProblem) -> Bounds | None:
    """Return the bounds of a problem in ticks; None if its lags contain a positive cycle."""
    heads = _longest(problem, forward=True)
    tails = _longest(problem, forward=False)
    if heads is None or tails is None:
        return None
    windows = _windows(problem, heads, tails)
    paths = max((h + t for h, t in zip(heads, tails, strict=True)), default=0)
    makespan = max([paths, *(w.least_makespan for w in windows)], default=0)
    return Bounds(heads=tuple(heads), tails=tuple(tails), windows=tuple(windows), makespan=makespan)


def is_overloaded(problem: SchedulingProblem) -> bool:
    """Whether a period holds less of some resource than the tasks take at the very least."""
    if problem.period_s is None:
        return False
    least = [0.0] * len(problem.resources)
    for task in problem.tasks:
        taken = [
            {d.resource: d.amount * m.hold_s(d) for d in m.demands if problem.resources[d.resource].renewable}
            for m in task.modes
        ]
        for r in range(len(least)):
            least[r] += min((row.get(r, 0.0) for row in taken), default=0.0)
    room = [r.capacity * problem.period_s for r in problem.resources]
    return any(work > most for work, most in zip(least, room, strict=True))


def _longest(problem: SchedulingProblem, *, forward: bool) -> list[int] | None:
    """Longest paths: earliest starts, or least times from a start to the end of the last task."""
    shortest = [int(min((m.duration_s for m in t.modes), default=0)) for t in problem.tasks]
    longest = [int(max((m.duration_s for m in t.modes), default=0)) for t in problem.tasks]
    arcs: list[tuple[int, int, int]] = []
    for lag in _certain_lags(problem):
        wait = int(lag.lag_s)
        wait += shortest[lag.before] if lag.kind.startswith("end") else 0
        wait -= longest[lag.after] if lag.kind.endswith("end") else 0
        arcs.append((lag.before, lag.after, wait) if forward else (lag.after, lag.before, wait))
    values = [int(t.release_s) for t in problem.tasks] if forward else list(shortest)
    for _ in range(len(problem.tasks) + 1):
        moved = False
        for before, after, wait in arcs:
            if values[before] + wait > values[after]:
                values[after], moved = values[before] + wait, True
        if not moved:
            return values
    return None


def _certain_lags(problem: SchedulingProblem) -> list[Lag]:
    """Return lags that hold in any mode: those of all modes, and the least of what each mode asks for.

    Lags of single modes count as start to start, an end by the shortest duration.
    """
    found = [lag for lag in problem.lags if lag.after_modes is None]
    least: dict[tuple[int, int], dict[int, int]] = {}
    for lag in problem.lags:
        if lag.after_modes is None or lag.kind.endswith("end"):
            continue
        wait = int(lag.lag_s)
        if lag.kind.startswith("end"):
            wait += int(min(m.duration_s for m in problem.tasks[lag.before].modes))
        by_mode = least.setdefault((lag.before, lag.after), {})
        for mode in lag.after_modes:
            by_mode[mode] = max(by_mode.get(mode, wait), wait)
    for (before, after), by_mode in least.items():
        if len(by_mode) == len(problem.tasks[after].modes):
            found.append(Lag(before=before, after=after, kind="start_start", lag_s=min(by_mode.values())))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class LagRow:
    """What lags of single modes ask for on the average of modes.

    start(after) - start(before), or end - end if `ends`, is at least the sum of `after_terms` (mode of after,
    ticks) and `before_terms` (mode of before, ticks).
    """

    before: int
    after: int
    ends: bool
    after_terms: tuple[tuple[int, int], ...]
    before_terms: tuple[tuple[int, int], ...] = ()


def lag_rows(problem: SchedulingProblem) -> list[LagRow]:
    """Return rows for pairs of tasks whose lags cover all modes of the second.

    Where a mode waits for the end of the first task, that one's length is its length in all, less at most
    what the modes that do not wait need its sites for.
    """
    groups: dict[tuple[int, int], list[Lag]] = {}
    for lag in problem.lags:
        if lag.after_modes is not None:
            groups.setdefault((lag.before, lag.after), []).append(lag)
    rows: list[LagRow] = []
    for (before, after), lags in groups.items():
        waits = {m: int(g.lag_s) for g in lags if g.kind == "end_start" for m in g.after_modes or ()}
        starts = {m: int(g.lag_s) for g in lags if g.kind == "start_start" for m in g.after_modes or ()}
        tails = {m: int(g.lag_s) for g in lags if g.kind == "end_end" for m in g.after_modes or ()}
        modes = problem.tasks[after].modes
        if len(waits.keys() | starts.keys()) == len(modes):
            rows.append(_start_row(problem, (before, after), waits, starts))
        if len(waits.keys() | tails.keys()) == len(modes):
            ends = tails | {m: wait + int(modes[m].duration_s) for m, wait in waits.items()}
            rows.append(LagRow(before=before, after=after, ends=True, after_terms=tuple(ends.items())))
    return rows


def _start_row(
    problem: SchedulingProblem, pair: tuple[int, int], waits: dict[int, int], starts: dict[int, int]
) -> LagRow:
    before, after = pair
    lengths = [int(m.duration_s) for m in problem.tasks[before].modes]
    longest: dict[str, int] = {}
    for mode, length in zip(problem.tasks[before].modes, lengths, strict=True):
        longest[mode.site] = max(longest.get(mode.site, 0), length)
    asked = starts | waits
    for m in starts.keys() - waits.keys():
        needs = dict(problem.tasks[after].modes[m].needs)
        # without a need the first task may be anywhere
        asked[m] -= longest.get(needs[before], 0) if before in needs else max(lengths)
    return LagRow(
        before=before,
        after=after,
        ends=False,
        after_terms=tuple(sorted(asked.items())),
        before_terms=tuple(enumerate(lengths)),
    )


def _windows(problem: SchedulingProblem, heads: list[int], tails: list[int]) -> list[Window]:
    windows: list[Window] = []
    closing = _closing(problem)
    for index, resource in enumerate(problem.resources):
        if resource.renewable and resource.capacity > 0:
            found = _resource_windows(problem, index, heads, tails)
            windows += [replace(w, until=_until(w, closing)) for w in found]
    return windows


def _closing(problem: SchedulingProblem) -> dict[int, set[int]]:
    """Return, per weighted task that nothing follows, what ends before it, if that leads nowhere else."""
    before: dict[int, set[int]] = {t: set() for t, task in enumerate(problem.tasks) if task.weight > 0}
    for lag in problem.lags:
        before.pop(lag.before, None)
        if lag.after in before and lag.kind == "end_start" and lag.lag_s >= 0:
            before[lag.after].add(lag.before)
    after: dict[int, set[int]] = {}
    for lag in problem.lags:
        after.setdefault(lag.before, set()).add(lag.after)
    # a task may be before several of them: it leads elsewhere then, for each
    return {end: group for end, group in before.items() if all(after[t] <= group | {end} for t in group)}


def _until(window: Window, closing: dict[int, set[int]]) -> int | None:
    tasks = {t for t, _, _ in window.terms}
    return next((end for end, group in closing.items() if tasks <= group), None)


def _resource_windows(
    problem: SchedulingProblem, resource: int, heads: list[int], tails: list[int]
) -> list[Window]:
    """Return the whole load of a resource and its most binding windows."""
    terms: list[tuple[int, int, int]] = []
    rest: dict[int, int] = {}
    slots: dict[int, tuple[int, int]] = {}
    for t, m, demand in problem.demands():
        if demand.resource != resource or demand.amount == 0:
            continue
        mode = problem.tasks[t].modes[m]
        after = max(tails[t], int(mode.duration_s))
        held = min(int(mode.hold_s(demand)), after)
        terms.append((t, m, demand.amount * held))
        known = slots.get(t, (demand.amount, held))
        slots[t] = (min(known[0], demand.amount), min(known[1], held))
        rest[t] = min(rest.get(t, after), after - held)
    if not terms:
        return []
    energies: dict[int, dict[int, int]] = {}
    for t, m, energy in terms:
        by_mode = energies.setdefault(t, {})
        by_mode[m] = by_mode.get(m, 0) + energy
    # a task with a mode that does without the resource need not load it, nor queue for it
    bound = {t for t, by_mode in energies.items() if len(by_mode) == len(problem.tasks[t].modes)}
    least = {t: min(by_mode.values()) if t in bound else 0 for t, by_mode in energies.items()}
    capacity = problem.resources[resource].capacity
    corners = _corners(
        np.array([heads[t] for t in rest]),
        np.array(list(rest.values())),
        np.array([least[t] for t in rest]),
        capacity,
    )
    found: list[Window] = []
    for head, tail in corners:
        inside = {t for t in rest if heads[t] >= head and rest[t] >= tail}
        found.append(
            Window(
                resource=resource,
                capacity=capacity,
                head=head,
                tail=tail,
                terms=tuple(term for term in terms if term[0] in inside),
                least_energy=sum(least[t] for t in inside),
                least_queue=_queue([slots[t] for t in inside if t in bound], capacity),
            )
        )
    return found


def _queue(slots: list[tuple[int, int]], capacity: int) -> int:
    """Return the least time in which tasks of (amount, time) pass: j m + 1 of them need j + 1 in a row.

    m is how many of the smallest amount fit at once; of the j m + 1 longest the j + 1 shortest count.
    """
    least = min((amount for amount, _ in slots), default=0)
    if least == 0:
        return 0
    abreast = max(capacity // least, 1)
    times = sorted((time for _, time in slots), reverse=True)
    best = 0
    for waves in range((len(times) - 1) // abreast + 1):
        last = waves * abreast
        best = max(best, sum(times[last - waves : last + 1]))
    return best


def _thinned(
    values: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return sorted values, or evenly chosen ones where they are many; the first is always among them."""
    return values[:: -(-len(values) // _MAX_CORNERS)]


def _corners(
    heads: np.ndarray[tuple[int], np.dtype[np.int64]],
    tails: np.ndarray[tuple[int], np.dtype[np.int64]],
    energies: np.ndarray[tuple[int], np.dtype[np.int64]],
    capacity: int,
) -> list[tuple[int, int]]:
    """Return the (head, tail) pairs whose load bounds the makespan most, the widest window always first."""
    all_heads, all_tails = _thinned(np.unique(heads)), _thinned(np.unique(tails))
    rows = np.searchsorted(all_heads, heads, side="right") - 1
    cols = np.searchsorted(all_tails, tails, side="right") - 1
    loads = np.zeros((len(all_heads), len(all_tails)), dtype=np.int64)
    peopled = np.zeros_like(loads)
    np.add.at(loads, (rows, cols), energies)
    np.add.at(peopled, (rows, cols), 1)
    for axis in (0, 1):
        loads = np.flip(np.cumsum(np.flip(loads, axis), axis), axis)
        peopled = np.flip(np.cumsum(np.flip(peopled, axis), axis), axis)
    peopled = peopled > 0
    values = np.where(peopled, all_heads[:, None] + all_tails[None, :] + -(-loads // capacity), -1)
    order = np.argsort(-values, axis=None, kind="stable")[: _MAX_WINDOWS_PER_RESOURCE - 1]
    best = [divmod(int(i), len(all_tails)) for i in order if values.flat[int(i)] >= 0]
    corners = [(int(all_heads[0]), int(all_tails[0]))]
    corners += [(int(all_heads[i]), int(all_tails[j])) for i, j in best]
    return list(dict.fromkeys(corners))
