"""Jobs replicated over node groups: with gradients reduced in every step, or in an outer loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from math import inf, log2

import numpy as np

from cost_models.operations.outer_loops import OUTER_STATE_BYTES, OuterLoop
from planner.diagnostics import Diagnostics
from planner.ir.problem import Problem
from planner.ir.training import Gradients, TrainingProblem
from planner.search.training_shares import (
    GroupSteps,
    SharePlan,
    best_split,
    exchange_of,
    least_split,
    parts_of,
    subsets,
    units,
)
from planner.space.training.between import exchange_s, outer_update_s, pass_s
from planner.space.training.grid import Space
from planner.space.training.source import formats_of

_EXCHANGED: tuple[Gradients, ...] = ("full", "bf16")
"""Formats of gradients that groups exchange; the others are protocols inside one job."""
_HALF_BYTES = 2.0
_TIED = 5e-5
"""Settings of a loop whose steps are this close count as equal: that which changes least is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTime:
    """What a step takes in the mean under one setting of an outer loop, seconds."""

    loop: OuterLoop
    step_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicasPlan:
    """A job on several groups: their parts, what they exchange, and the step.

    `waiting_s` is what waiting for the slowest of all nodes adds. Of an outer loop, `loop` is the one chosen
    and `loops` all that were allowed, fastest first; `exchange_s` is then what exchanges and updates add to
    a step in the mean, `part_s` the exchange of one part.
    """

    parts: tuple[SharePlan, ...]
    fmt: str
    step_s: float
    exchange_s: float
    waiting_s: float = 0.0
    part_s: float = 0.0
    loop: OuterLoop | None = None
    loops: tuple[LoopTime, ...] = ()

    @property
    def slowest(self) -> SharePlan:
        """The part that the others wait for."""
        return max(self.parts, key=lambda part: part.step_s)


@dataclass(slots=True, kw_only=True)
class ReplicasOutcome:
    """The best replicated jobs, best first, a bound on all of them, and the splits priced."""

    found: list[ReplicasPlan] = field(default_factory=list[ReplicasPlan])
    bound: float = inf
    priced: int = 0
    interrupted: bool = False


def loops_of(problem: Problem[TrainingProblem]) -> list[OuterLoop]:
    """Return the settings of an outer loop that are allowed and possible."""
    asked = problem.payload.choices.outer_loop
    if asked is None:
        return []
    found = [
        OuterLoop(steps=steps, bits=bits, fragments=parts, overlap_steps=overlap)
        for steps, bits, parts, overlap in product(
            asked.steps, asked.bits, asked.fragments, asked.overlap_steps
        )
    ]
    return [loop for loop in found if loop.is_possible]


def search_replicas(
    problem: Problem[TrainingProblem],
    diagnostics: Diagnostics,
    incumbent_s: float,
    stop: Callable[[], bool],
    loops: list[OuterLoop],
) -> ReplicasOutcome:
    """Return the replicated jobs that beat `incumbent_s`; with `loops` those of outer loops."""
    outcome = ReplicasOutcome()
    choices, groups = problem.payload.choices, problem.cluster.groups
    own = Space(
        model=problem.payload.model, workload=problem.payload.workload, choices=choices, num_devices=1
    )
    allowed: list[Gradients] = [
        name for name in _EXCHANGED if name in own.word("gradients", choices.gradients)
    ]
    if loops:
        choices = replace(choices, offloads=("none",))
    best = incumbent_s
    for fmt in formats_of(problem.payload, groups[0]):
        if any(fmt not in formats_of(problem.payload, group) for group in groups):
            continue
        for gradients in allowed:
            payload = replace(problem.payload, choices=replace(choices, gradients=(gradients,)))
            case = replace(problem, payload=payload)
            kind = f"{loops[0].steps} or more local steps" if loops else "gradients reduced in every step"
            diagnostics.progress(f"searching replicas on several groups in {fmt}, {kind}")
            search = _Search(case, fmt, gradients, loops, stop)
            best = search.run(outcome, best)
    outcome.found.sort(key=lambda plan: plan.step_s)
    return outcome


class _Search:
    """Replicas in one precision and one format of gradients."""

    def __init__(
        self,
        problem: Problem[TrainingProblem],
        fmt: str,
        gradients: Gradients,
        loops: list[OuterLoop],
        stop: Callable[[], bool],
    ) -> None:
        more = OUTER_STATE_BYTES if loops else 0.0
        self._problem, self._fmt, self._loops, self._stop = problem, fmt, loops, stop
        self._groups = [GroupSteps(problem, group, fmt, more, stop) for group in problem.cluster.groups]
        software = self._groups[0].evaluator.software
        each = min(_HALF_BYTES, software.reduce_bytes) if gradients == "bf16" else software.reduce_bytes
        self._params = float(problem.payload.model.num_params)
        self._reduced_bytes = self._params * each

    def run(self, outcome: ReplicasOutcome, best_s: float) -> float:
        """Search every set of groups; return the best step known."""
        for chosen in subsets(self._problem.cluster):
            groups = [self._groups[i] for i in chosen]
            best_s = self._of_groups(groups, outcome, best_s)
        outcome.priced += sum(group.num_priced for group in self._groups)
        return best_s

    def _of_groups(self, groups: list[GroupSteps], outcome: ReplicasOutcome, best_s: float) -> float:
        batch = self._problem.payload.workload.global_batch
        least_s = 0.0 if self._loops else self._least_exchange_s(groups, self._reduced_bytes)
        factor = self._factor(groups)
        for unit in units(batch):
            below_s = (best_s - least_s) / factor
            shares = best_split(groups, batch, below_s, self._stop, unit)
            if shares is None:
                continue
            plan = self._plan(parts_of(groups, shares), factor)
            if plan.step_s < best_s:
                best_s = plan.step_s
                outcome.found.append(plan)
            if unit == 1:
                outcome.bound = min(outcome.bound, self._bound(groups, factor * plan.slowest.step_s))
        if self._stop():
            outcome.interrupted = True
            outcome.bound = min(outcome.bound, least_split(groups, batch, best_s, 1)[1])
        outcome.bound = min(outcome.bound, best_s)
        return best_s

    def _factor(self, groups: list[GroupSteps]) -> float:
        """Return what waiting for the slowest of all nodes, not of one group's, multiplies a step by.

        Workers of an outer loop wait once in many steps, over which the times of their nodes even out.
        """
        if self._loops:
            return 1.0
        nodes = [group.evaluator.group.num_nodes for group in groups]
        return 1.0 + groups[0].evaluator.software.straggler * log2(sum(nodes) / max(nodes))

    def _least_exchange_s(self, groups: list[GroupSteps], num_bytes: float) -> float:
        sites = [(group.evaluator, group.evaluator.group.num_devices) for group in groups]
        return exchange_s(self._problem.cluster, sites, num_bytes)

    def _bound(self, groups: list[GroupSteps], slowest_s: float) -> float:
        """Return the least that any plan of the groups takes whose slowest part takes `slowest_s`."""
        if not self._loops:
            return slowest_s + self._least_exchange_s(groups, self._reduced_bytes)
        update_s = max(
            pass_s(group.evaluator, self._params / group.evaluator.group.num_devices) for group in groups
        )
        return min(
            loop.mean_step_s(
                slowest_s, self._least_exchange_s(groups, loop.fragment_bytes(self._params)), update_s
            )
            for loop in self._loops
        )

    def _plan(self, parts: tuple[SharePlan, ...], factor: float) -> ReplicasPlan:
        """Return the plan of some parts, under the setting that is fastest."""
        slowest_s = max(part.step_s for part in parts)
        cluster = self._problem.cluster
        if not self._loops:
            exchange = exchange_of(cluster, parts, self._reduced_bytes)
            return ReplicasPlan(
                parts=parts,
                fmt=self._fmt,
                step_s=factor * slowest_s + exchange,
                exchange_s=exchange,
                waiting_s=(factor - 1.0) * slowest_s,
            )
        update_s = max(
            outer_update_s(part.evaluator, part.kept.plans.take(np.array([part.index])), self._fmt)
            for part in parts
        )
        sent = {loop: exchange_of(cluster, parts, loop.fragment_bytes(self._params)) for loop in self._loops}
        times = [
            LoopTime(loop=loop, step_s=loop.mean_step_s(slowest_s, sent[loop], update_s))
            for loop in self._loops
        ]
        fastest = min(time.step_s for time in times)
        tied = fastest * (1 + _TIED)
        chosen = min((time for time in times if time.step_s <= tied), key=_change)
        return ReplicasPlan(
            parts=parts,
            fmt=self._fmt,
            step_s=chosen.step_s,
            exchange_s=chosen.step_s - slowest_s,
            part_s=sent[chosen.loop],
            loop=chosen.loop,
            loops=tuple(sorted(times, key=lambda time: time.step_s)),
        )


def _change(time: LoopTime) -> tuple[int, int, int, int]:
    """Return how far a setting is from training in step: late parts, few bits, many local steps, parts."""
    loop = time.loop
    return loop.overlap_steps, -loop.bits, loop.steps, loop.fragments
