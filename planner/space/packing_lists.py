"""Quick packings: each sequence at a degree, groups filled longest first, micro-batches by first fit."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.ir.packing import Group, Microbatch, Packing, PackingProblem, group_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sequence at a degree: its chunks, and its time with its share of what a micro-batch takes."""

    index: int
    length: int
    degree: int
    num_chunks: int
    time_s: float


def item_at(problem: PackingProblem, index: int, degree: int) -> Item | None:
    """Return a sequence at a degree, or None where it does not fit."""
    length, costs = problem.lengths[index], problem.costs
    count = problem.chunks(length, degree)
    if count == 0:
        return None
    fixed = costs.microbatch_s * (count if count > 1 else length / (costs.rank_tokens * degree))
    return Item(
        index=index,
        length=length,
        degree=degree,
        num_chunks=count,
        time_s=costs.sequence_s(length, degree, count) + fixed,
    )


def blocks(num_ranks: int, degree: int) -> range:
    """Return the first ranks of the aligned blocks of `degree` ranks."""
    return range(0, num_ranks - degree + 1, degree)


def spread(
    problem: PackingProblem, items: Sequence[Item], busy_s: Sequence[float] | None = None
) -> dict[tuple[int, int], list[Item]]:
    """Return the items of each group (first rank, degree): largest degrees first, longest first, least load.

    Ranks beyond the last whole block of a degree take no part in groups of it. `busy_s` is what the ranks
    have to do besides.
    """
    load = list(busy_s) if busy_s is not None else [0.0] * problem.num_ranks
    groups: dict[tuple[int, int], list[Item]] = {}
    for degree in sorted({item.degree for item in items}, reverse=True):
        heap = [(max(load[b : b + degree]), b) for b in blocks(problem.num_ranks, degree)]
        heapq.heapify(heap)
        own = [item for item in items if item.degree == degree]
        for item in sorted(own, key=lambda item: (-item.time_s, item.index)):
            at, first = heapq.heappop(heap)
            groups.setdefault((first, degree), []).append(item)
            heapq.heappush(heap, (at + item.time_s, first))
        for at, first in heap:
            if (first, degree) in groups:
                load[first : first + degree] = [at] * degree
    return groups


def packed(
    problem: PackingProblem, groups: Mapping[tuple[int, int], Sequence[Item]], *, bound_s: float, method: str
) -> Packing:
    """Return the packing of these groups, with its true time."""
    made = tuple(
        Group(first_rank=first, degree=degree, microbatches=_microbatches(problem, items, degree))
        for (first, degree), items in sorted(groups.items(), key=lambda entry: (-entry[0][1], entry[0][0]))
        if items
    )
    return Packing(groups=made, time_s=step_s(problem, made), bound_s=bound_s, method=method)


def step_s(problem: PackingProblem, groups: Sequence[Group]) -> float:
    """Return the time of the rank that works longest; a group starts when its last rank is free."""
    free = [0.0] * problem.num_ranks
    for group in sorted(groups, key=lambda group: (-group.degree, group.first_rank)):
        ranks = range(group.first_rank, group.first_rank + group.degree)
        end = max(free[r] for r in ranks) + group_s(problem, group)
        for r in ranks:
            free[r] = end
    return max(free)


def _microbatches(problem: PackingProblem, items: Sequence[Item], degree: int) -> tuple[Microbatch, ...]:
    """Pack whole sequences into micro-batches of at most the tokens that fit; chunked ones stay alone."""
    room = problem.costs.rank_tokens * degree
    found = [
        Microbatch(sequences=(item.index,), num_chunks=item.num_chunks)
        for item in items
        if item.num_chunks > 1
    ]
    whole = [item for item in items if item.num_chunks == 1]
    bins: list[list[int]] = []
    left: list[int] = []
    for item in sorted(whole, key=lambda item: (-item.length, item.index)):
        place = next((b for b, space in enumerate(left) if space >= item.length), -1)
        if place < 0:
            bins.append([])
            left.append(room)
        bins[place].append(item.index)
        left[place] -= item.length
    return (*found, *(Microbatch(sequences=tuple(row)) for row in bins))


def uniform(problem: PackingProblem, degree: int) -> Packing | None:
    """Return the packing with all groups of one degree, or None where a sequence does not fit."""
    items = [item_at(problem, index, degree) for index in range(len(problem.lengths))]
    known = [item for item in items if item is not None]
    if len(known) < len(items):
        return None
    return packed(problem, spread(problem, known), bound_s=0.0, method=f"uniform degree {degree}")


def best_uniform(problem: PackingProblem) -> tuple[int, Packing] | None:
    """Return the best of all uniform degrees, and its packing."""
    found = [(degree, uniform(problem, degree)) for degree in problem.degrees()]
    known = [(degree, packing) for degree, packing in found if packing is not None]
    return min(known, key=lambda entry: entry[1].time_s, default=None)


def padded(problem: PackingProblem) -> tuple[int, float] | None:
    """Return degree and time of padding every sequence to the longest, one uniform degree for all."""
    longest = max(problem.lengths)
    best: tuple[int, float] | None = None
    for degree in problem.degrees():
        count = problem.chunks(longest, degree)
        if count == 0:
            continue
        per_rank = problem.costs.rank_tokens * degree // longest if count == 1 else 1
        num_groups = len(blocks(problem.num_ranks, degree))
        rounds = -(-len(problem.lengths) // num_groups)
        one = problem.costs.sequence_s(longest, degree, count)
        fixed = problem.costs.microbatch_s * (count * rounds if count > 1 else -(-rounds // per_rank))
        time = rounds * one + fixed
        if best is None or time < best[1]:
            best = degree, time
    return best
