"""Experts of one layer on the ranks of expert parallelism, the hot ones more than once.

Expert e with load w[e] gets c[e] >= 1 copies that share its tokens evenly; all ranks hold equally many
copies. The fullest rank, for which the others wait, is to be as light as can be.

- no rank is below the mean load, nor below the heaviest copy when copies go where they help most
- few experts: an integer program over the copies of each expert per rank (HiGHS), exact
- many: copies go one by one to the heaviest share, shares to the lightest rank with room, heaviest first
  (LPT), then pairs of copies change ranks as long as the fullest rank gets lighter

Source: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969 (LPT); copies by greedy as in the
apportionment of seats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortools.math_opt.python import mathopt

from planner.search.mip import Expression, at_most, exactly, solve_with_highs, total
from planner.space.expert_copies import by_weight, spread_copies

MOST_EXACT = 600
"""Whole variables up to which a layer is solved exactly."""
_SECONDS = 10.0
_PROVED = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """The copies of one layer: which expert stands in each slot, rank by rank.

    `fullest` is the load of the fullest rank, `bound` is what no placement goes below.
    """

    slots: tuple[int, ...]
    fullest: float
    bound: float
    mean: float

    @property
    def skew(self) -> float:
        """Load of the fullest rank over the mean; 1 where there is no load."""
        return self.fullest / self.mean if self.mean > 0.0 else 1.0


def place_experts(loads: Sequence[float], num_ranks: int, num_redundant: int) -> Placed:
    """Return the best placement of one layer that is found.

    Raises
    ------
    ValueError
        If the copies do not fill the ranks evenly.
    """
    num_slots = len(loads) + num_redundant
    if num_slots % num_ranks:
        raise ValueError(f"{num_slots} experts do not fill {num_ranks} ranks evenly")
    copies = spread_copies(loads, num_slots)
    heaviest = max(load / count for load, count in zip(loads, copies, strict=True))
    mean = sum(loads) / num_ranks
    bound = max(mean, heaviest)
    ranks = _exchanged(by_weight(loads, copies, num_ranks), loads, copies, bound)
    found = _placed(ranks, loads, bound, mean)
    if found.fullest <= bound * (1.0 + _PROVED) or len(loads) * num_ranks * (num_redundant + 1) > MOST_EXACT:
        return found
    return _exactly(loads, num_ranks, num_redundant, found)


def _placed(ranks: Sequence[Sequence[int]], loads: Sequence[float], bound: float, mean: float) -> Placed:
    slots = tuple(expert for rank in ranks for expert in sorted(rank))
    counts = {expert: slots.count(expert) for expert in set(slots)}
    fullest = max(sum(loads[e] / counts[e] for e in rank) for rank in ranks)
    return Placed(slots=slots, fullest=fullest, bound=min(bound, fullest), mean=mean)


def _exchanged(
    ranks: list[list[int]], loads: Sequence[float], copies: Sequence[int], bound: float
) -> list[list[int]]:
    """Exchange copies of the fullest rank with lighter ones of others while that makes it lighter."""
    share = [load / count for load, count in zip(loads, copies, strict=True)]
    weight = [sum(share[e] for e in rank) for rank in ranks]
    while True:
        full = max(range(len(ranks)), key=lambda k: (weight[k], -k))
        if weight[full] <= bound * (1.0 + _PROVED):
            return ranks
        best = (weight[full] * (1.0 - _PROVED), -1, -1, -1)
        for k, rank in enumerate(ranks):
            for i, mine in enumerate(ranks[full]) if k != full else ():
                for j, other in enumerate(rank):
                    moved = share[mine] - share[other]
                    best = min(best, (max(weight[full] - moved, weight[k] + moved), k, i, j))
        _, k, i, j = best
        if k < 0:
            return ranks
        moved = share[ranks[full][i]] - share[ranks[k][j]]
        ranks[full][i], ranks[k][j] = ranks[k][j], ranks[full][i]
        weight[full] -= moved
        weight[k] += moved


def _exactly(loads: Sequence[float], num_ranks: int, num_redundant: int, known: Placed) -> Placed:
    """Return the optimum over all numbers of copies and places, or what is known if that takes too long."""
    model = mathopt.Model()
    fullest = model.add_variable(lb=0.0)
    weights: list[list[Expression]] = [[] for _ in range(num_ranks)]
    held: list[list[Expression]] = [[] for _ in range(num_ranks)]
    counts: list[list[tuple[int, list[mathopt.Variable]]]] = []
    for load in loads:
        ways: list[tuple[int, list[mathopt.Variable]]] = []
        taken: list[Expression] = []
        for copies in range(1, num_redundant + 2):
            way = model.add_binary_variable()
            where = [model.add_integer_variable(lb=0.0, ub=float(copies)) for _ in range(num_ranks)]
            exactly(model, [*where, -float(copies) * way], 0.0)
            for rank, number in enumerate(where):
                weights[rank].append(load / copies * number)
                held[rank].append(1.0 * number)
            taken.append(way)
            ways.append((copies, where))
        exactly(model, taken, 1.0)
        counts.append(ways)
    for rank in range(num_ranks):
        exactly(model, held[rank], float(len(known.slots) // num_ranks))
        at_most(model, [*weights[rank], -1.0 * fullest])
    model.minimize(total([fullest]))
    result = solve_with_highs(model, _SECONDS, 1e-9)
    if not result.has_primal_feasible_solution():
        return known
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    for expert, ways in enumerate(counts):
        for _, where in ways:
            for rank, number in enumerate(where):
                ranks[rank].extend([expert] * round(result.variable_values(number)))
    bound = max(known.bound, min(result.dual_bound(), known.fullest))
    found = _placed(ranks, loads, bound, known.mean)
    return (
        found if found.fullest < known.fullest else _placed(_cut(known, num_ranks), loads, bound, known.mean)
    )


def _cut(placed: Placed, num_ranks: int) -> list[list[int]]:
    each = len(placed.slots) // num_ranks
    return [list(placed.slots[k * each : (k + 1) * each]) for k in range(num_ranks)]
