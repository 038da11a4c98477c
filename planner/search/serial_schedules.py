"""Serial schedules by the thousand: whole populations of task orders placed at once with numpy.

Every row of a batch is one order of the same tasks; step i puts the i-th task of each row to its earliest
place. Free units of several resources share one word (a guard bit above each), so that one subtraction
over the profile tells where a task fits; a run of free slots is found by shifting packed bits.
Source of the scheme (serial generation): Kolisch, Hartmann, "Heuristic algorithms for the
resource-constrained project scheduling problem", in Weglarz (ed.), Project Scheduling, 1999.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Bools = NDArray[np.bool_]

_WORD = 64
_SPARSE_SHARE = 8
"""Holds shorter than this part of the profile are taken off slot by slot, longer ones by a pass over it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Tasks as arrays, in slots: holds, demands [task, resource], capacities, earliest starts.

    `arcs` are (before, after, wait): start(after) >= start(before) + wait.
    """

    holds: Ints
    demands: Ints
    capacities: Ints
    releases: Ints
    arcs: tuple[tuple[int, int, int], ...]

    @property
    def num_tasks(self) -> int:
        """Number of tasks."""
        return len(self.holds)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Packed:
    """Resources that share a word: units of every task, guard bits, what is free at first."""

    units: NDArray[np.unsignedinteger]
    guard: np.unsignedinteger
    empty: np.unsignedinteger


class SerialScheduler:
    """Places orders of one set of tasks up to a horizon; starts that do not fit are the horizon itself."""

    def __init__(self, tasks: Tasks, horizon: int) -> None:
        count = tasks.num_tasks
        self.tasks = tasks
        self.horizon = horizon
        self.longest = max(int(tasks.holds.max(initial=0)), 1)
        self.num_slots = horizon + self.longest
        self.num_words = -(-self.num_slots // _WORD)
        self.before, self.waits = _arcs_into(tasks)
        self.levels = _levels(count, tasks.arcs)
        self._packed = list(_packed(tasks))
        self._from = _from_masks(self.num_slots, self.num_words)
        # a run of hold h is one of 2^k slots that begins at a slot and one that begins h - 2^k later
        self._doublings = np.array([max(int(h), 1).bit_length() - 1 for h in tasks.holds], dtype=np.int64)
        self._rests = np.maximum(tasks.holds, 1) - (1 << self._doublings)
        self._span = np.arange(self.longest, dtype=np.int64)
        self._slots = np.arange(self.num_slots, dtype=np.int64)

    def orders(self, keys: NDArray[np.float64]) -> Ints:
        """Return the tasks of every row by rising key, each after those that it waits for."""
        rows, count = keys.shape
        raised = np.full((rows, count + 1), -np.inf)
        raised[:, :count] = keys
        for level in self.levels[1:]:
            least = raised[:, self.before[level]].max(axis=2) + 1e-9
            raised[:, level] = np.maximum(raised[:, level], least)
        return np.argsort(raised[:, :count], axis=1, kind="stable").astype(np.int64)

    def starts(self, orders: Ints) -> Ints:
        """Return the start of every task in every row, in slots."""
        rows, count = orders.shape
        free = [np.full((rows, self.num_slots), p.empty, dtype=p.units.dtype) for p in self._packed]
        spare = [np.empty_like(profile) for profile in free]
        # one column more: padded arcs point there, with a wait of zero
        starts = np.zeros((rows, count + 1), dtype=np.int64)
        row: Ints = np.arange(rows, dtype=np.int64)
        bits = np.zeros((rows, self.num_words * 8), dtype=np.uint8)
        for task in np.ascontiguousarray(orders.T):
            waits = starts[row[:, None], self.before[task]] + self.waits[task]
            earliest = np.maximum(waits.max(axis=1), self.tasks.releases[task])
            fits = self._fits(free, spare, task)
            packed = np.packbits(fits, axis=1, bitorder="little")
            bits[:, : packed.shape[1]] = packed
            words = (bits.view(np.uint64) & self._from[np.minimum(earliest, self.num_slots)]).T
            begin = np.minimum(_lowest(self._runs(words, task)), self.horizon)
            starts[row, task] = begin
            self._take(free, task, begin)
        return starts[:, :count]

    def _fits(self, free: list[Words], spare: list[Words], task: Ints) -> Bools:
        """Return the slots at which every resource has what the task of the row needs."""
        found: Bools | None = None
        for packed, profile, left in zip(self._packed, free, spare, strict=True):
            np.subtract(profile, packed.units[task][:, None], out=left)
            np.bitwise_and(left, packed.guard, out=left)
            fits: Bools = left == packed.guard
            found = fits if found is None else found & fits
        return np.ones((len(task), self.num_slots), dtype=bool) if found is None else found

    def _runs(self, words: Words, task: Ints) -> Words:
        """Keep the bits that begin a run as long as the hold of the column's task."""
        # word by word, so that the rows of the batch lie side by side
        runs = [np.ascontiguousarray(words)]
        for doubling in range(int(self._doublings.max(initial=0))):
            runs.append(runs[-1] & _moved(runs[-1], 1 << doubling))
        longest = runs[0]
        for doubling, run in enumerate(runs[1:], start=1):
            longest = np.where(self._doublings[task] >= doubling, run, longest)
        return longest & _shifted(longest, self._rests[task])

    def _take(self, free: list[Words], task: Ints, begin: Ints) -> None:
        holds = self.tasks.holds[task]
        if self.longest * _SPARSE_SHARE <= self.num_slots:
            at = (np.arange(len(task)) * self.num_slots + begin)[:, None] + self._span
            held = self._span < holds[:, None]
            for packed, profile in zip(self._packed, free, strict=True):
                profile.reshape(-1)[at] -= packed.units[task][:, None] * held
            return
        held = (self._slots >= begin[:, None]) & (self._slots < (begin + holds)[:, None])
        for packed, profile in zip(self._packed, free, strict=True):
            np.subtract(profile, packed.units[task][:, None] * held, out=profile)


def turned(tasks: Tasks) -> Tasks:
    """Return the tasks with time running backwards; what has a release may then start at any time."""
    holds = tasks.holds
    return Tasks(
        holds=holds,
        demands=tasks.demands,
        capacities=tasks.capacities,
        releases=np.zeros_like(tasks.releases),
        arcs=tuple((b, a, wait + int(holds[b]) - int(holds[a])) for a, b, wait in tasks.arcs),
    )


def _packed(tasks: Tasks) -> Iterator[_Packed]:
    """Pack resources that are asked for into words, each with a guard bit above its units."""
    used = [r for r, column in enumerate(tasks.demands.T) if column.any()]
    if not used:
        return
    width = max(int(tasks.capacities[r]).bit_length() for r in used) + 1
    kind = np.uint32 if width * len(used) <= _WORD // 2 else np.uint64
    per_word = _WORD // width
    # what holds nothing for any time takes nothing
    demands = np.where(tasks.holds[:, None] > 0, tasks.demands, 0)
    for first in range(0, len(used), per_word):
        units = np.zeros(tasks.num_tasks, dtype=kind)
        guard = empty = 0
        for place, r in enumerate(used[first : first + per_word]):
            units |= demands[:, r].astype(kind) << kind(place * width)
            guard |= 1 << (place * width + width - 1)
            empty |= int(tasks.capacities[r]) << (place * width)
        yield _Packed(units=units, guard=kind(guard), empty=kind(empty | guard))


def _arcs_into(tasks: Tasks) -> tuple[Ints, Ints]:
    """Return per task what it waits for and how long, padded with the column after the last task."""
    into: list[list[tuple[int, int]]] = [[] for _ in range(tasks.num_tasks)]
    for before, after, wait in sorted(set(tasks.arcs)):
        into[after].append((before, wait))
    width = max(1, *(len(arcs) for arcs in into)) if into else 1
    before = np.full((tasks.num_tasks, width), tasks.num_tasks, dtype=np.int64)
    waits = np.zeros((tasks.num_tasks, width), dtype=np.int64)
    for t, arcs in enumerate(into):
        for place, (other, wait) in enumerate(arcs):
            before[t, place], waits[t, place] = other, wait
    return before, waits


def _levels(count: int, arcs: tuple[tuple[int, int, int], ...]) -> list[Ints]:
    """Return the tasks by the number of tasks on the longest chain before them; lags must not be cyclic."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in {(a, b) for a, b, _ in arcs}:
        after[a].append(b)
        waiting[b] += 1
    levels: list[Ints] = []
    ready = [t for t in range(count) if waiting[t] == 0]
    while ready:
        levels.append(np.array(sorted(ready), dtype=np.int64))
        following: list[int] = []
        for t in ready:
            for other in after[t]:
                waiting[other] -= 1
                if waiting[other] == 0:
                    following.append(other)
        ready = following
    return levels


def _from_masks(num_slots: int, num_words: int) -> Words:
    """Return per slot the words in which that slot and all later ones are set."""
    place = np.arange(num_slots + 1, dtype=np.int64)[:, None] - _WORD * np.arange(num_words)[None, :]
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    shifted = ones << np.clip(place, 0, _WORD - 1).astype(np.uint64)
    return np.where(place >= _WORD, np.uint64(0), shifted)


def _moved(words: Words, by: int) -> Words:
    """Return every column of bits moved towards its first by so many places."""
    whole, rest = divmod(by, _WORD)
    moved = np.zeros_like(words)
    kept = len(words) - whole
    if kept > 0:
        np.right_shift(words[whole:], np.uint64(rest), out=moved[:kept])
    if rest and kept > 1:
        moved[: kept - 1] |= words[whole + 1 :] << np.uint64(_WORD - rest)
    return moved


def _shifted(words: Words, by: Ints) -> Words:
    """Return every column of bits moved towards its first by as many places as `by` says for it."""
    rest = (by % _WORD).astype(np.uint64)
    low = words
    if int(by.max()) >= _WORD:
        at = np.arange(len(words))[:, None] + by // _WORD
        low = np.take_along_axis(words, np.minimum(at, len(words) - 1), axis=0)
        low = np.where(at < len(words), low, np.uint64(0))
    moved = low >> rest
    # by a whole word at most: numpy then gives zero
    moved[:-1] |= low[1:] << (np.uint64(_WORD) - rest)
    return moved


def _lowest(words: Words) -> Ints:
    """Return the place of the lowest bit of every column; past the last place where none is set."""
    found = np.full(words.shape[1], len(words) * _WORD, dtype=np.int64)
    for number in range(len(words) - 1, -1, -1):
        word = words[number]
        # the lowest bit alone is whole in a double
        lowest = (word & (~word + np.uint64(1))).astype(np.float64)
        place = np.frexp(lowest)[1].astype(np.int64) - 1 + number * _WORD
        found = np.where(word != 0, place, found)
    return found
