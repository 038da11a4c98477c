"""Exact placement of the sequences with most work, as a constraint programme.

Variables: a literal per sequence, degree and block of ranks; the rank-time of all other sequences that
each rank takes, in steps. Constraints: each sequence has one place; for each rank, what lies on the blocks
that hold it and its share of the rest are at most T. Objective: T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, cast

from ortools.sat.python import cp_model

from planner.ir.packing import Packing, PackingProblem
from planner.space.packing_lists import Item, blocks, spread

_STEPS = 20_000
_MOST_LITERALS = 6000
# The stubs leave this untyped.
_total = cast(
    "Callable[[Sequence[cp_model.LinearExprT]], cp_model.LinearExpr]", cast("Any", cp_model.LinearExpr).sum
)
_Groups = dict[tuple[int, int], list[Item]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Groups, or None where nothing was found in time; a bound for all packings."""

    groups: _Groups | None
    bound_s: float


def place(
    problem: PackingProblem,
    choices: list[list[Item]],
    incumbent: Packing,
    effort: float,
    time_limit_s: float,
    seed: int,
) -> Placement:
    """Return the best placement found within `effort` of deterministic time."""
    unit = incumbent.time_s / _STEPS
    big, small = _divided(problem, choices)
    model = cp_model.CpModel()
    on_rank: list[list[cp_model.LinearExprT]] = [[] for _ in range(problem.num_ranks)]
    literals: dict[tuple[int, int, int], cp_model.IntVar] = {}
    for index in big:
        own: list[cp_model.IntVar] = []
        for item in choices[index]:
            for first in blocks(problem.num_ranks, item.degree):
                literal = model.new_bool_var(f"{index} at {first} x {item.degree}")
                literals[index, first, item.degree] = literal
                own.append(literal)
                for rank in range(first, first + item.degree):
                    on_rank[rank].append(floor(item.time_s / unit) * literal)
        model.add_exactly_one(own)
    cheap = _cheapest(choices, small, incumbent.time_s)
    rest = floor(sum(item.time_s * item.degree for item in cheap) / unit)
    total = model.new_int_var(floor(incumbent.bound_s / unit), ceil(incumbent.time_s / unit), "T")
    shares = [
        model.new_int_var(0, min(rest, 2 * _STEPS), f"rest of {rank}") for rank in range(problem.num_ranks)
    ]
    model.add(_total(shares) >= rest)
    for parts, share in zip(on_rank, shares, strict=True):
        model.add(_total([*parts, share]) <= total)
    model.minimize(total)
    _hint(model, literals, incumbent, set(big))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_deterministic_time = effort
    solver.parameters.max_time_in_seconds = time_limit_s
    status = solver.solve(model)
    bound = max(0.0, solver.best_objective_bound) * unit if status != cp_model.MODEL_INVALID else 0.0
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        return Placement(groups=None, bound_s=bound)
    cheap = _cheapest(choices, small, (solver.objective_value + 1) * unit)
    return Placement(groups=_filled(problem, choices, solver, literals, cheap), bound_s=bound)


def _cheapest(choices: list[list[Item]], indices: list[int], limit_s: float) -> list[Item]:
    """Return the items of least rank-time that take no longer than a packing that is to be beaten."""
    found: list[Item] = []
    for index in indices:
        within = [item for item in choices[index] if item.time_s <= limit_s]
        within = within or [min(choices[index], key=lambda item: item.time_s)]
        found.append(min(within, key=lambda item: (item.time_s * item.degree, item.degree)))
    return found


def _divided(problem: PackingProblem, choices: list[list[Item]]) -> tuple[list[int], list[int]]:
    """Return the sequences with most work, as many as the literals allow, and the others."""
    by_work = sorted(range(len(choices)), key=lambda i: (-problem.costs.work_s(problem.lengths[i]), i))
    big: list[int] = []
    left = _MOST_LITERALS
    for index in by_work:
        left -= sum(len(blocks(problem.num_ranks, item.degree)) for item in choices[index])
        if left < 0:
            break
        big.append(index)
    return big, [index for index in by_work if index not in set(big)]


def _hint(
    model: cp_model.CpModel,
    literals: dict[tuple[int, int, int], cp_model.IntVar],
    incumbent: Packing,
    big: set[int],
) -> None:
    places = {
        index: (group.first_rank, group.degree)
        for group in incumbent.groups
        for microbatch in group.microbatches
        for index in microbatch.sequences
        if index in big
    }
    for (index, first, degree), literal in literals.items():
        model.add_hint(literal, places.get(index) == (first, degree))


def _filled(
    problem: PackingProblem,
    choices: list[list[Item]],
    solver: cp_model.CpSolver,
    literals: dict[tuple[int, int, int], cp_model.IntVar],
    cheap: list[Item],
) -> _Groups:
    """Return the groups of the solution, the small sequences on top, longest first, least load."""
    groups: _Groups = {}
    for (index, first, degree), literal in literals.items():
        if solver.boolean_value(literal):
            item = next(item for item in choices[index] if item.degree == degree)
            groups.setdefault((first, degree), []).append(item)
    load = [0.0] * problem.num_ranks
    for (first, degree), items in groups.items():
        for rank in range(first, first + degree):
            load[rank] += sum(item.time_s for item in items)
    for key, items in spread(problem, cheap, load).items():
        groups.setdefault(key, []).extend(items)
    return groups
