"""Packing of a batch of sequences of different lengths onto groups of ranks of different sizes.

1. Lower bound: the smallest T at which the cheapest degrees whose time is at most T fit N ranks for T.
2. Lists: for targets from the bound upwards, each sequence at the degree with least rank-time of those that
   meet the target, placed longest first; and all sequences at one degree.
3. Constraint programme: the sequences with most work are placed exactly, over degrees and blocks of ranks;
   the others are rank-time that may be split, then placed longest first as well. Its bound holds for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf

from planner.errors import InputError
from planner.ir.packing import Packing, PackingProblem
from planner.space.packing_lists import Item, best_uniform, item_at, packed, spread

_FEWEST_TARGETS, _MOST_TARGETS = 6, 72
_PLACED_IN_ALL = 20_000
_HIGHEST_TARGET = 2.0
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class PackingOptions:
    """Effort: deterministic time of the constraint programme, and a wall limit, seconds."""

    effort: float = 0.25
    time_limit_s: float = 0.5
    seed: int = 0


def check_problem(problem: PackingProblem) -> None:
    """Check that there is something to pack and that every sequence fits.

    Raises
    ------
    InputError
        Otherwise.
    """
    if not problem.lengths or min(problem.lengths) < 1:
        raise InputError("a batch has sequences of one token or more")
    largest = problem.degrees()[-1]
    longest = max(problem.lengths)
    if problem.chunks(longest, largest) == 0:
        raise InputError(
            "the longest sequence does not fit the largest group",
            value=longest,
            allowed=f"{problem.costs.rank_tokens * largest} tokens",
            hint="More ranks, more tokens per rank, or chunks make room.",
        )


def pack(problem: PackingProblem, options: PackingOptions) -> Packing:
    """Return the best packing found, with a bound.

    Raises
    ------
    InputError
        If a sequence does not fit.
    """
    check_problem(problem)
    choices = _choices(problem)
    bound = lower_bound_s(problem, choices)
    same = best_uniform(problem)
    best = None if same is None else replace(same[1], bound_s=bound)
    target = bound
    num_targets = min(_MOST_TARGETS, max(_FEWEST_TARGETS, _PLACED_IN_ALL // len(problem.lengths)))
    for _ in range(num_targets):
        found = packed(problem, spread(problem, _cheapest(choices, target)), bound_s=bound, method="lists")
        if best is None or found.time_s < best.time_s:
            best = found
        if best.time_s <= bound * (1 + _ROUNDING) or target > best.time_s:
            break
        target *= _HIGHEST_TARGET ** (1 / num_targets)
    assert best is not None
    if best.time_s <= bound * (1 + _ROUNDING):
        return best
    return _exact(problem, choices, best, options)


def _exact(
    problem: PackingProblem, choices: list[list[Item]], best: Packing, options: PackingOptions
) -> Packing:
    from planner.search.packing_cpsat import place  # the solver is loaded where it is asked

    placed = place(problem, choices, best, options.effort, options.time_limit_s, options.seed)
    bound = max(best.bound_s, min(placed.bound_s, best.time_s))
    if placed.groups is not None:
        found = packed(problem, placed.groups, bound_s=bound, method="cp-sat")
        if found.time_s < best.time_s:
            return found
    return replace(best, bound_s=bound)


def _choices(problem: PackingProblem) -> list[list[Item]]:
    """Return for each sequence its items at all degrees that fit, without those that are beaten.

    A larger degree is beaten where it is no quicker.
    """
    found: dict[int, list[Item]] = {}
    listed: list[list[Item]] = []
    for index, length in enumerate(problem.lengths):
        if length not in found:
            items = [item_at(problem, index, degree) for degree in problem.degrees()]
            known = [item for item in items if item is not None]
            kept = known[:1]
            for item in known[1:]:
                if item.time_s < min(other.time_s for other in kept):
                    kept.append(item)
            found[length] = kept
        listed.append([replace(item, index=index) for item in found[length]])
    return listed


def _cheapest(choices: list[list[Item]], target_s: float) -> list[Item]:
    """Return each sequence at the degree of least rank-time that meets the target, or at its quickest."""
    picked: list[Item] = []
    for items in choices:
        within = [item for item in items if item.time_s <= target_s * (1 + _ROUNDING)]
        if within:
            picked.append(min(within, key=lambda item: (item.time_s * item.degree, item.degree)))
        else:
            picked.append(min(items, key=lambda item: item.time_s))
    return picked


def lower_bound_s(problem: PackingProblem, choices: list[list[Item]]) -> float:
    """Return a time that no packing can beat: the least T with area(T) <= N T, every sequence within T.

    area(T) is the sum of the least rank-time of each sequence over the degrees that take at most T; it
    falls in steps, at the times of the items. Shares of a micro-batch's fixed time are what full ones give.
    """
    times = sorted({item.time_s for items in choices for item in items})
    least = max(min(item.time_s for item in items) for items in choices)
    steps = [least, *(t for t in times if t > least), inf]
    low, high = 0, len(steps) - 2
    while low < high:
        middle = (low + high) // 2
        if _area(choices, steps[middle]) / problem.num_ranks <= steps[middle + 1]:
            high = middle
        else:
            low = middle + 1
    return max(steps[low], _area(choices, steps[low]) / problem.num_ranks)


def _area(choices: list[list[Item]], limit_s: float) -> float:
    cut = limit_s * (1 + _ROUNDING)
    return sum(min(i.time_s * i.degree for i in items if i.time_s <= cut) for items in choices)
