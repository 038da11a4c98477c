"""Jobs over several node groups: when they are looked for, and the search over all precisions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from planner.diagnostics import Diagnostics
from planner.ir.cluster import Cluster
from planner.ir.problem import Problem
from planner.ir.training import Recompute, TrainingProblem
from planner.search.training_mixed import MixedOutcome, MixedSearch
from planner.search.training_mixed_answer import MixedAnswer
from planner.search.training_question import limits_of
from planner.space.training.chain_stages import ChainGroup
from planner.space.training.grid import Space
from planner.space.training.mixed import mixed_points
from planner.space.training.plans import RECOMPUTES
from planner.space.training.source import evaluator_of, formats_of

MOST_GROUPS = 8
GOAL = "min_step_time"


@dataclass(slots=True, kw_only=True)
class GroupsOutcome:
    """What was found, best first, with a lower bound on every such job's step, and the work it took."""

    found: list[MixedAnswer] = field(default_factory=list[MixedAnswer])
    bound: float = inf
    outcomes: list[MixedOutcome] = field(default_factory=list[MixedOutcome])

    @property
    def interrupted(self) -> bool:
        """Whether a search ended early."""
        return any(outcome.interrupted for outcome in self.outcomes)


def why_alone(problem: Problem[TrainingProblem]) -> str | None:
    """Return why no job over several groups is looked for, None where one is."""
    cluster, budget = problem.cluster, problem.budget
    if len(cluster.groups) > MOST_GROUPS:
        return f"there are more than {MOST_GROUPS} node groups"
    if not _joined(cluster):
        return "no link joins the node groups"
    if problem.objective.name != GOAL:
        return f"the objective is not {GOAL}"
    if any(limit is not None for limit in (budget.num_devices, budget.usd_per_hour, budget.power_w)):
        return "a budget limits the devices"
    return None


def _joined(cluster: Cluster) -> bool:
    names = [group.name for group in cluster.groups]
    return all(cluster.is_joined(a, b) for i, a in enumerate(names) for b in names[:i])


def search_groups(
    problem: Problem[TrainingProblem],
    diagnostics: Diagnostics,
    incumbent_s: float,
    stop: Callable[[], bool],
) -> GroupsOutcome:
    """Return the pipelines over several groups that beat `incumbent_s`."""
    found = GroupsOutcome()
    groups = problem.cluster.groups
    if len(groups) < 2:
        return found
    reason = why_alone(problem)
    if reason is not None:
        diagnostics.note("training-one-group", f"every job is on one node group: {reason}")
        return found
    payload = problem.payload
    limits = [limits_of(problem, group) for group in groups]
    spaces = tuple(
        Space(
            model=payload.model,
            workload=payload.workload,
            choices=payload.choices,
            num_devices=limit.num_devices,
        )
        for limit in limits
    )
    points = mixed_points(spaces, tuple(group.device.name for group in groups))
    if points is None or not len(points):
        return found
    chained = tuple(
        ChainGroup(evaluator=evaluator_of(payload, group, plans), capacity_bytes=limit.capacity_bytes)
        for group, plans, limit in zip(groups, points.plans, limits, strict=True)
    )
    pinned = dict(payload.choices.fixed)
    allowed = spaces[0].word("recompute", payload.choices.recomputes)
    ways: tuple[Recompute, ...] = tuple(way for way in RECOMPUTES if way in allowed)
    best = incumbent_s
    for fmt in formats_of(payload, groups[0]):
        if not ways or any(fmt not in formats_of(payload, group) for group in groups):
            continue
        diagnostics.progress(f"searching {len(points)} pipelines over {len(groups)} groups in {fmt}")
        search = MixedSearch(problem.cluster, chained, fmt, ways, int(pinned.get("pp", 0)), stop)
        outcome = search.run(points, best, limits[0].longest_step_s)
        found.outcomes.append(outcome)
        found.bound = min(found.bound, outcome.bound)
        found.found += [MixedAnswer(plan=plan, groups=chained, fmt=fmt) for plan in outcome.found]
        best = min([best, *(plan.step_s for plan in outcome.found)])
    found.found.sort(key=lambda answer: answer.step_s)
    return found
