"""Exact search of jobs replicated over node groups: each its own shape, the batch split between them.

A step is as long as the slowest group's, and what the groups exchange. Which split is best is asked of
lower bounds on every group's step, for every number of sequences; of the split that they call best one group
is priced exactly, until one is left of which all groups are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.cluster import Cluster, NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_exact import ExactSearch, Priced
from planner.search.training_question import limits_of, rates_of
from planner.space.training.between import exchange_s
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, plan_columns, points
from planner.space.training.point_grid import PointGrid
from planner.space.training.share_bound import micro_batches, share_floor
from planner.space.training.source import evaluator_of, with_batch

_NUM_KEPT = 16
_COARSE = (8, 32)
"""Splits into so many parts are looked at first, for a good plan to begin with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharePlan:
    """One group's part: its sequences per step, and its best plans for them, best first."""

    evaluator: TrainingEvaluator
    sequences: int
    kept: Priced
    index: int

    @property
    def step_s(self) -> float:
        """Predicted step of this group alone, seconds."""
        return float(self.kept.step_s[self.index])

    @property
    def num_devices(self) -> int:
        """Devices of this group that take part."""
        plans, i = self.kept.plans, self.index
        return int(plans.tp[i] * plans.pp[i] * plans.dp[i] * plans.cp[i])


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split of the batch: `slowest_s` is the longest step of a group, `factor` what waiting adds to it."""

    parts: tuple[SharePlan, ...]
    slowest_s: float
    factor: float


class GroupSteps:
    """The best step of one group for every number of sequences: bounds, and values where asked for."""

    def __init__(
        self,
        problem: Problem[TrainingProblem],
        group: NodeGroup,
        fmt: str,
        more_state_bytes: float,
        stop: Callable[[], bool],
    ) -> None:
        payload = problem.payload
        self._limits, self._rates = limits_of(problem, group), rates_of(problem, group)
        self._space = Space(
            model=payload.model,
            workload=payload.workload,
            choices=payload.choices,
            num_devices=self._limits.num_devices,
        )
        sizes = np.array(micro_batches(self._space), dtype=np.int64)
        self.evaluator = evaluator_of(
            payload, group, plan_columns(len(sizes), micro_batch=sizes), more_state_bytes=more_state_bytes
        )
        self._fmt = fmt
        self._stop = stop
        self.least_s = share_floor(self.evaluator, self._space, fmt)
        self.plans: dict[int, Priced] = {}
        self.num_priced = 0

    def is_known(self, sequences: int) -> bool:
        """Return whether the best step for so many sequences has been found."""
        return sequences in self.plans

    def settle(self, sequences: int, below_s: float) -> None:
        """Find the best step for so many sequences, or that there is none below `below_s`."""
        space = replace(self._space, workload=replace(self._space.workload, global_batch=sequences))
        grid = list(points(space))
        self.num_priced += 1
        if not grid:
            self.least_s[sequences] = np.inf
            return
        evaluator = with_batch(self.evaluator, sequences)
        search = ExactSearch(evaluator, space, self._rates, self._limits, _NUM_KEPT, self._stop)
        kept = search.run(PointGrid(grid), self._fmt, below_s).kept
        if kept is None or float(kept.step_s[0]) > below_s:
            self.least_s[sequences] = np.inf if np.isinf(below_s) else below_s * (1 + 1e-12)
            return
        self.plans[sequences] = kept
        self.least_s[sequences] = float(kept.step_s[0])


def best_split(
    groups: Sequence[GroupSteps], batch: int, below_s: float, stop: Callable[[], bool], unit: int = 1
) -> tuple[int, ...] | None:
    """Return the sequences of each group that make the slowest one fastest, None if none is below `below_s`.

    Only multiples of `unit` are looked at. Every group runs at least one of them.
    """
    while not stop():
        shares, value = least_split(groups, batch, below_s, unit)
        if not shares or value >= below_s:
            return None
        unknown = [(g, b) for g, b in zip(groups, shares, strict=True) if not g.is_known(b)]
        if not unknown:
            return shares
        group, share = max(unknown, key=lambda pair: float(pair[0].least_s[pair[1]]))
        group.settle(share, below_s)
    return None


def least_split(
    groups: Sequence[GroupSteps], batch: int, below_s: float, unit: int
) -> tuple[tuple[int, ...], float]:
    """Return the split with the least largest bound, and that bound; empty if none is below `below_s`.

    Sums of sequences are built up group by group, over the numbers that stay below `below_s` alone.
    """
    count = batch // unit
    allowed: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for group in groups:
        own = group.least_s[::unit][: count + 1]
        allowed.append(np.flatnonzero(own < below_s))
        if not len(allowed[-1]):
            return (), np.inf
    value: FloatArray = np.full(count + 1, np.inf)
    value[0] = 0.0
    came: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for group, shares in zip(groups, allowed, strict=True):
        own = group.least_s[::unit]
        best, source = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
        reachable = np.flatnonzero(np.isfinite(value))
        for share in shares.tolist():
            at = reachable[reachable + share <= count]
            each = np.maximum(value[at], own[share])
            better = each < best[at + share]
            best[at[better] + share] = each[better]
            source[at[better] + share] = share
        value = best
        came.append(source)
    if not np.isfinite(value[count]):
        return (), np.inf
    left, found = count, list[int]()
    for source in reversed(came):
        share = int(source[left])
        found.append(share * unit)
        left -= share
    return tuple(reversed(found)), float(value[count])


def units(batch: int) -> list[int]:
    """Return the granularities in which a batch is split, coarse ones first, one at last."""
    return [*(batch // n for n in _COARSE if batch % n == 0 and batch > n), 1]


def subsets(cluster: Cluster) -> list[tuple[int, ...]]:
    """Return the sets of at least two groups that links join, the largest first."""
    names = [group.name for group in cluster.groups]
    found: list[tuple[int, ...]] = []
    for size in range(len(names), 1, -1):
        for chosen in combinations(range(len(names)), size):
            if all(cluster.is_joined(names[a], names[b]) for a, b in combinations(chosen, 2)):
                found.append(chosen)
    return found


def exchange_of(cluster: Cluster, parts: Sequence[SharePlan], num_bytes: float) -> float:
    """Return the exchange between parts as they are placed, seconds."""
    return exchange_s(cluster, [(part.evaluator, part.num_devices) for part in parts], num_bytes)


def parts_of(groups: Sequence[GroupSteps], shares: Sequence[int]) -> tuple[SharePlan, ...]:
    """Return the parts of a split: of the plans that the slowest group waits for, those with most devices."""
    slowest = max(float(g.plans[b].step_s[0]) for g, b in zip(groups, shares, strict=True))
    found: list[SharePlan] = []
    for group, share in zip(groups, shares, strict=True):
        kept = group.plans[share]
        evaluator = with_batch(group.evaluator, share)
        choices = [
            SharePlan(evaluator=evaluator, sequences=share, kept=kept, index=i)
            for i in range(len(kept.plans))
            if float(kept.step_s[i]) <= slowest
        ]
        most = max(choice.num_devices for choice in choices)
        found.append(next(choice for choice in choices if choice.num_devices == most))
    return tuple(found)
