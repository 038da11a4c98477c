"""Search for kind ``training``: every plan of one job on one node group, by bounds and exact prices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from time import monotonic

import numpy as np

from planner.diagnostics import Diagnostics
from planner.ir.candidates import AlternativeChoice, ObjectiveValue, PoolChoice, SearchResult
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_answer import Answer, answer_of, degrees_of
from planner.search.training_exact import Effort, ExactSearch, Priced
from planner.search.training_figures import JobFigures, predictions_of
from planner.search.training_groups import GroupsOutcome, search_groups, why_alone
from planner.search.training_infeasible import explain_infeasible
from planner.search.training_lengths import LengthOutcome, search_lengths
from planner.search.training_lengths_answer import LengthsAnswer, lengths_simpler
from planner.search.training_lengths_said import say_lengths_experts, say_lengths_gap, without_room
from planner.search.training_question import GOALS, limits_of, rates_of
from planner.search.training_replicas import ReplicasOutcome, loops_of, search_replicas
from planner.search.training_replicas_answer import replicas_answer
from planner.search.training_said import (
    AnyAnswer,
    any_details,
    any_figures,
    any_placement,
    any_pools,
    any_summary,
    say_offload,
    value_of,
)
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, plan_columns, points
from planner.space.training.plans import PlanArrays
from planner.space.training.point_grid import PointGrid
from planner.space.training.source import evaluator_of, formats_of

METHOD = (
    "enumeration in order of bounds: all layers alone, then stages, then sharding; over several node groups "
    "a dynamic programme over layers and ordered groups for every point that its bound leaves; for replicas "
    "on several groups splits of the batch in order of bounds, each group of a split by the same enumeration"
)
SPACE = (
    "one job on one node group: every tp that splits heads and widths (with sequence parallelism), cp as "
    "ring, by heads or both, ep with its own tp, pp with uneven ends, chunks and schedules, micro-batch, "
    "recompute, ZeRO level over every number of ranks, offload and precision that is allowed; or one 1F1B "
    "pipeline over up to 8 joined groups in any order, layers cut anywhere, tp of its own for every device "
    "kind, recompute of its own for every stage (some layers or all); or a replica on each of two or more "
    "groups, every one with a shape and a number of sequences of its own, gradients reduced round a ring of "
    "groups in every step or, where it is allowed, in an outer loop; the global batch exactly"
)
LENGTHS_METHOD = (
    "enumeration in order of the work spread evenly; batches packed by lists and a constraint programme"
)
LENGTHS_SPACE = (
    "one job on one node group without a pipeline: every tp that splits heads and widths, recompute, ZeRO 0 "
    "to 2 over every number of ranks, offload and precision that is allowed; experts whole on every device; "
    "every batch drawn on groups of ranks of any powers of two, sequences packed into micro-batches that "
    "fit; the step is their mean"
)
_NUM_KEPT = 256
OPTIMAL_GAP = 1e-4
"""Largest gap of a plan that is called optimal."""
_DEGREES = ("tp", "pp", "dp", "cp", "ep", "etp")


@dataclass(slots=True, kw_only=True)
class _Found:
    """The best plans of one group in one precision."""

    evaluator: TrainingEvaluator
    fmt: str
    kept: Priced


@dataclass(slots=True, kw_only=True)
class _Total:
    """What all searches found together."""

    found: list[_Found] = field(default_factory=list["_Found"])
    efforts: list[Effort] = field(default_factory=list[Effort])
    groups: GroupsOutcome = field(default_factory=GroupsOutcome)
    replicas: list[ReplicasOutcome] = field(default_factory=list[ReplicasOutcome])
    lengths: list[LengthOutcome] = field(default_factory=list[LengthOutcome])
    best: float = np.inf
    bound: float = np.inf
    interrupted: bool = False

    @property
    def spread_bound(self) -> float:
        """Return the least bound of jobs over several groups."""
        return min([self.groups.bound, *(outcome.bound for outcome in (*self.replicas, *self.lengths))])

    def add_replicas(self, outcome: ReplicasOutcome) -> None:
        """Take in what a search of replicated jobs found."""
        self.replicas.append(outcome)
        self.interrupted |= outcome.interrupted
        self.bound = min(self.bound, outcome.bound)
        self.best = min([self.best, *(plan.step_s for plan in outcome.found)])

    def spread(self) -> list[AnyAnswer]:
        """Return the jobs over several groups, and those of different lengths, best first."""
        replicated = [replicas_answer(plan) for outcome in self.replicas for plan in outcome.found]
        found: list[AnyAnswer] = [*self.groups.found, *replicated]
        found += [LengthsAnswer(plan=plan) for outcome in self.lengths for plan in outcome.found]
        return sorted(found, key=value_of)

    def winner(self) -> AnyAnswer | None:
        """Return the best plan of all, None if there is none; of equal ones the one on one group."""
        best = min(self.found, key=lambda f: float(f.kept.value[0]), default=None)
        spread = next(iter(self.spread()), None)
        if spread is not None and (best is None or value_of(spread) < float(best.kept.value[0])):
            return spread
        if best is None:
            return None
        return answer_of(best.evaluator, best.fmt, best.kept.plans, 0, float(best.kept.value[0]))


def search(
    problem: Problem[TrainingProblem],
    diagnostics: Diagnostics,
    *,
    stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Return the best training plan with its proof, or why there is none.

    The time limit and `stop` end the search early; the best plan priced so far is then returned as feasible,
    with the least bound of what was not looked at.

    Raises
    ------
    InputError
        If the objective is unknown or a price is needed and unknown.
    """
    total = find(problem, diagnostics, stop)
    answer = total.winner()
    if answer is None:
        return _nothing(problem, total, diagnostics)
    value = value_of(answer)
    bound = min(total.bound if total.interrupted else total.spread_bound, value)
    gap = (value - bound) / max(abs(value), 1e-300)
    figures = any_figures(answer)
    pools = any_pools(problem, answer)
    say_offload(pools, problem.cluster.groups, diagnostics)
    if isinstance(answer, LengthsAnswer):
        say_lengths_gap(gap, total.interrupted, diagnostics)
    return SearchResult(
        status="feasible" if total.interrupted or gap > OPTIMAL_GAP else "optimal",
        objective=_with_interval(_objective(problem, value, bound, gap), figures),
        pools=pools,
        placement=any_placement(answer),
        predicted=predictions_of(problem, figures),
        alternatives=_runners_up(problem, total, answer, value),
        infeasibility=None,
        method=LENGTHS_METHOD if total.lengths else METHOD,
        work=_work(total),
        space=LENGTHS_SPACE if total.lengths else SPACE,
        details=any_details(problem, answer),
    )


def find(
    problem: Problem[TrainingProblem], diagnostics: Diagnostics, stop: Callable[[], bool] | None = None
) -> _Total:
    """Search every group in every precision, with the best of the former ones as incumbent."""
    end = monotonic() + problem.options.time_limit_s

    def stopped() -> bool:
        return monotonic() > end or (stop is not None and stop())

    total = _Total()
    if problem.payload.workload.batches:
        _find_lengths(problem, diagnostics, total, stopped)
        return total
    for group in problem.cluster.groups:
        limits, rates = limits_of(problem, group), rates_of(problem, group)
        space = Space(
            model=problem.payload.model,
            workload=problem.payload.workload,
            choices=problem.payload.choices,
            num_devices=limits.num_devices,
        )
        grid = list(points(space)) if limits.num_devices > 0 else []
        if not grid:
            continue
        coarse = PointGrid(grid)
        sizes = coarse.micro_batches()
        evaluator = evaluator_of(problem.payload, group, plan_columns(len(sizes), micro_batch=sizes))
        for fmt in formats_of(problem.payload, group):
            diagnostics.progress(f"searching {len(coarse)} points on {group.name} in {fmt}")
            exact = ExactSearch(evaluator, space, rates, limits, _NUM_KEPT, stopped)
            outcome = exact.run(coarse, fmt, total.best)
            total.efforts.append(outcome.effort)
            total.interrupted |= outcome.interrupted
            total.bound = min(total.bound, outcome.bound)
            if outcome.kept is not None:
                total.found.append(_Found(evaluator=evaluator, fmt=fmt, kept=outcome.kept))
                total.best = min(total.best, float(outcome.kept.value[0]))
    _find_replicas(problem, diagnostics, total, stopped)
    return total


def _find_lengths(
    problem: Problem[TrainingProblem], diagnostics: Diagnostics, total: _Total, stopped: Callable[[], bool]
) -> None:
    """Search plans for batches of different lengths on every group."""
    say_lengths_experts(problem.payload.model, diagnostics)
    for group in problem.cluster.groups:
        if limits_of(problem, group).num_devices < 1:
            continue
        for fmt in formats_of(problem.payload, group):
            diagnostics.progress(f"packing batches on {group.name} in {fmt}")
            outcome = search_lengths(problem, group, fmt, total.best, stopped)
            total.lengths.append(outcome)
            total.interrupted |= outcome.interrupted
            total.bound = min(total.bound, outcome.bound)
            total.best = min([total.best, *(plan.step_s for plan in outcome.found)])


def _find_replicas(
    problem: Problem[TrainingProblem], diagnostics: Diagnostics, total: _Total, stopped: Callable[[], bool]
) -> None:
    """Search jobs over several groups: replicas in step, in outer loops, then pipelines."""
    several = len(problem.cluster.groups) > 1 and why_alone(problem) is None
    loops = loops_of(problem)
    if several:
        total.add_replicas(search_replicas(problem, diagnostics, total.best, stopped, []))
    if several and loops:
        total.add_replicas(search_replicas(problem, diagnostics, total.best, stopped, loops))
    total.groups = search_groups(problem, diagnostics, total.best, stopped)
    total.interrupted |= total.groups.interrupted
    total.bound = min(total.bound, total.groups.bound)
    if loops and not several:
        diagnostics.note("training-no-outer-loop", "an outer loop is allowed, but there is one site alone")


def _objective(
    problem: Problem[TrainingProblem], value: float | None, bound: float | None, gap: float | None
) -> ObjectiveValue:
    goal = problem.objective.name
    return ObjectiveValue(name=goal, unit=GOALS[goal], sense="min", value=value, bound=bound, gap=gap)


def _work(total: _Total) -> tuple[tuple[str, float | int], ...]:
    names = ("points", "points_expanded", "rows", "plans_priced")
    own = tuple((name, sum(getattr(effort, name) for effort in total.efforts)) for name in names)
    outcomes = total.groups.outcomes
    if total.lengths:
        return (
            ("plans", sum(o.plans for o in total.lengths)),
            ("packed", sum(o.packed for o in total.lengths)),
        )
    splits = (("splits_priced", sum(o.priced for o in total.replicas)),) if total.replicas else ()
    if not outcomes:
        return own + splits
    spread = ("points", "cut", "tables")
    return (
        own + tuple((f"spread_{name}", sum(getattr(o, name) for o in outcomes)) for name in spread) + splits
    )


def _with_interval(objective: ObjectiveValue, figures: JobFigures) -> ObjectiveValue:
    """Return an objective with its 90 % interval: in proportion to the step time."""
    value = objective.value or 0.0
    low, high = value * figures.low_s / figures.step_s, value * figures.high_s / figures.step_s
    return replace(objective, low=low, high=high)


def _shape(plans: PlanArrays, i: int) -> tuple[int, ...]:
    return tuple(int(getattr(plans, name)[i]) for name in _DEGREES)


def _runners_up(
    problem: Problem[TrainingProblem], total: _Total, best: AnyAnswer, best_value: float
) -> tuple[AlternativeChoice, ...]:
    """Return the best plans of other degrees that were priced, best first, and one over several groups."""
    seen: set[tuple[object, ...]] = set()
    if isinstance(best, Answer):
        own = tuple(value for name, value in degrees_of(best.strategy) if name in _DEGREES)
        seen.add((best.group.name, best.fmt, own))
    rows = sorted(
        (
            (float(f.kept.value[i]), number, i)
            for number, f in enumerate(total.found)
            for i in range(len(f.kept.plans))
        )
    )

    def choice(value: float, summary: str, pools: tuple[PoolChoice, ...]) -> AlternativeChoice:
        relative = (value - best_value) / max(abs(best_value), 1e-300)
        tie = relative <= problem.options.tie_tolerance
        return AlternativeChoice(
            label="", summary=summary, objective_value=value, relative=relative, tie=tie, pools=pools
        )

    found: list[AlternativeChoice] = []
    for value, number, i in rows:
        source = total.found[number]
        key = (source.evaluator.group.name, source.fmt, _shape(source.kept.plans, i))
        if key in seen or len(found) >= problem.options.num_alternatives:
            continue
        seen.add(key)
        answer = answer_of(source.evaluator, source.fmt, source.kept.plans, i, value)
        found.append(choice(value, any_summary(answer), any_pools(problem, answer)))
    spread = [
        choice(value_of(answer), any_summary(answer), any_pools(problem, answer))
        for answer in total.spread()
        if value_of(answer) > best_value
    ]
    if isinstance(best, LengthsAnswer):
        spread += [choice(value, words, ()) for words, value in lengths_simpler(best)]
    ordered = sorted([*found, *spread], key=lambda c: c.objective_value or 0.0)
    return tuple(ordered[: problem.options.num_alternatives])


def _nothing(problem: Problem[TrainingProblem], total: _Total, diagnostics: Diagnostics) -> SearchResult:
    report = None
    if not total.interrupted:
        diagnostics.progress("finding the nearest problem that has a plan")
        report = explain_infeasible(problem, total.efforts, _value_without)
        if total.lengths:
            report = without_room(problem, total.lengths, report)
    return SearchResult(
        status="infeasible" if report is not None else "nothing_found",
        objective=_objective(problem, None, None, None),
        pools=(),
        placement=(),
        predicted=(),
        alternatives=(),
        infeasibility=report,
        method=LENGTHS_METHOD if total.lengths else METHOD,
        work=_work(total),
        space=LENGTHS_SPACE if total.lengths else SPACE,
    )


def _value_without(problem: Problem[TrainingProblem]) -> tuple[float, float] | None:
    """Return (value, step time) of the best plan of a loosened problem, None if there is none."""
    loose = replace(problem, options=replace(problem.options, num_alternatives=0))
    total = find(loose, Diagnostics())
    answer = total.winner()
    if answer is None:
        return None
    return value_of(answer), answer.step_s
