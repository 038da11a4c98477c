"""Exact search of pipelines over several node groups: points in order of a bound, each cut exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import ceil, inf

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.cluster import Cluster
from planner.ir.training import Recompute
from planner.search.training_chain import CLOSE, EXACT, MOST_DEVICES_EXACT, Chain, ChainSearch
from planner.search.training_table import ChainQuestion, ChainSegment
from planner.space.training.chain_pricing import BandPricer
from planner.space.training.chain_stages import ChainGroup, StageBand
from planner.space.training.joints import joint_hop_s
from planner.space.training.mixed import MixedPoints
from planner.space.training.mixed_bound import MixedBound, mixed_bound, with_memory
from planner.space.training.plans import PlanArrays

_REFINED = 512
_WIDTHS = 8
"""Stages are priced up to a multiple of this many layers, so that points can share them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan:
    """A priced pipeline over groups; `plans[g]` are the degrees on group g."""

    plans: tuple[PlanArrays, ...]
    chain: Chain

    @property
    def step_s(self) -> float:
        """Predicted step, seconds."""
        return self.chain.step_s


@dataclass(slots=True, kw_only=True)
class MixedOutcome:
    """The best pipelines, best first; `bound` is a lower bound on every pipeline's step."""

    found: list[MixedPlan] = field(default_factory=list[MixedPlan])
    bound: float = inf
    points: int = 0
    cut: int = 0
    tables: int = 0
    interrupted: bool = False


class MixedSearch:
    """One search over the groups of a cluster in one precision."""

    def __init__(
        self,
        cluster: Cluster,
        groups: tuple[ChainGroup, ...],
        fmt: str,
        ways: tuple[Recompute, ...],
        num_stages: int,
        stop: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._groups = groups
        self._fmt = fmt
        self._ways = ways
        self._num_stages = num_stages
        self._stop = stop
        self._pricers = tuple(BandPricer(group, fmt, ways) for group in groups)
        self._tolerance = EXACT
        self._bands: dict[tuple[object, ...], StageBand] = {}

    def run(self, points: MixedPoints, incumbent_s: float, longest_s: float = inf) -> MixedOutcome:
        """Return the pipelines that beat `incumbent_s` and keep to `longest_s`, proved best."""
        evaluators = tuple(group.evaluator for group in self._groups)
        bound = mixed_bound(evaluators, points, self._fmt, self._ways)
        outcome = MixedOutcome(points=len(points))
        devices = sum(group.evaluator.group.num_devices for group in self._groups)
        self._tolerance = EXACT if devices <= MOST_DEVICES_EXACT else CLOSE
        best = min(incumbent_s, longest_s)
        heap = [(float(bound.step_s[i]), False, int(i)) for i in np.flatnonzero(bound.step_s < best)]
        heapify(heap)
        while heap and heap[0][0] < best * (1 - self._tolerance):
            if self._stop():
                outcome.interrupted, outcome.bound = True, heap[0][0]
                break
            if not heap[0][1]:
                self._refine(heap, points, bound, best)
                continue
            index = heappop(heap)[2]
            outcome.cut += 1
            search = ChainSearch(self._question(points, index, float(bound.layer_s[index]), best))
            chain = search.best(best)
            outcome.tables += search.num_tables
            if chain is not None and chain.step_s < best:
                best = chain.step_s
                plans = tuple(plan.take(np.array([index])) for plan in points.plans)
                outcome.found.insert(0, MixedPlan(plans=plans, chain=chain))
        proved = best * (1 - self._tolerance) if self._tolerance > EXACT else best
        outcome.bound = min(outcome.bound, proved)
        return outcome

    def _refine(
        self, heap: list[tuple[float, bool, int]], points: MixedPoints, bound: MixedBound, best_s: float
    ) -> None:
        """Replace the least bounds by ones that know memory."""
        chosen: list[int] = []
        kept: list[tuple[float, bool, int]] = []
        while heap and len(chosen) < _REFINED and heap[0][0] < best_s:
            entry = heappop(heap)
            if entry[1]:
                kept.append(entry)
            else:
                chosen.append(entry[2])
        index = np.array(chosen, dtype=np.int64)
        some = points.take(index)
        allowed = (self._fmt, self._ways)
        found = with_memory(self._groups, some, bound.take(index), allowed, best_s)
        for i, step_s in zip(chosen, found.tolist(), strict=True):
            if step_s < best_s:
                kept.append((step_s, True, i))
        for entry in kept:
            heappush(heap, entry)

    def _question(self, points: MixedPoints, index: int, layer_s: float, best_s: float) -> ChainQuestion:
        plans = [plan.take(np.array([index])) for plan in points.plans]
        first = self._groups[0].evaluator
        shape = plans[0]
        num_micro = first.workload.global_batch // int(shape.dp[0] * shape.micro_batch[0])
        num_layers = len(first.model.layers)
        width = num_layers
        if np.isfinite(best_s) and num_micro > 1:
            most = ceil(best_s / (num_micro - 1) / layer_s)
            width = min(num_layers, _WIDTHS * ceil(max(most, 1) / _WIDTHS))
        segments = tuple(
            ChainSegment(
                band=self._band(i, plan, width),
                most_stages=int(points.most_stages[i][index]),
                devices_per_stage=int(plan.tp[0] * plan.cp[0] * plan.dp[0]),
                devices_per_node=self._groups[i].evaluator.group.devices_per_node,
            )
            for i, plan in enumerate(plans)
        )
        return ChainQuestion(
            segments=segments,
            hop_s=self._hops(plans),
            num_micro=num_micro,
            hidden=first.software.p2p_overlap,
            straggler=first.software.straggler,
            per_step_s=first.software.per_step_s,
            num_stages=self._num_stages,
            least_groups=2,
            tolerance=self._tolerance,
        )

    def _band(self, i: int, plan: PlanArrays, width: int) -> StageBand:
        names = ("tp", "cp", "dp", "cp_ulysses", "ep", "etp", "micro_batch", "zero", "offload", "gradients")
        key = (i, width, *(int(getattr(plan, name)[0]) for name in names))
        if key not in self._bands:
            self._bands[key] = self._pricers[i].band(plan, width)
        return self._bands[key]

    def _hops(self, plans: list[PlanArrays]) -> FloatArray:
        """Return the time of one send from each group to each, seconds."""
        num = len(plans)
        hop = np.zeros((num, num))
        for i, group in enumerate(self._groups):
            hop[i, i] = float(group.evaluator.hop_s(plans[i])[0])
            for j in range(i):
                both = (group.evaluator, self._groups[j].evaluator)
                hop[i, j] = hop[j, i] = joint_hop_s(self._cluster, both, (plans[i], plans[j]))
        return hop
