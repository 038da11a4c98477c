"""Shares the inventory of a fleet among priced models exactly, and places what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.ir.candidates import (
    AlternativeChoice,
    InfeasibilityReport,
    ObjectiveValue,
    ReplicaPlacement,
    SearchResult,
)
from planner.ir.fleet import FleetProblem, TrafficLevel
from planner.ir.problem import Problem
from planner.search.fleet_alternatives import fleet_alternatives, simplest
from planner.search.fleet_answer import ModelAnswer, answer_of, items_of, totals_of
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_details import details_of
from planner.search.fleet_infeasible import too_much
from planner.search.fleet_levels import day_of, solve_day
from planner.search.fleet_links import along_links, link_facts
from planner.search.fleet_master import GOALS, MasterSolution, Work
from planner.search.fleet_place import Item, place_fleet
from planner.search.fleet_power import node_domains, shared_power
from planner.search.fleet_power_program import rooms_under
from planner.search.fleet_question import master_of
from planner.search.fleet_room import Room

SPACE = (
    "replica shapes as for serving, up to a model's replica_devices, in scale-up slots of powers of two or "
    "whole domains; queues of 1 to 8, 10, 12, 16, 24, 32, 48 or 64 replicas; a model is served by whole "
    "replicas on any groups, by prefill and decode inside one group, or across groups; end-to-end limits "
    "are shared between prefill and decode in 4 ways"
)
_SHRINK = 0.98
_PLACING_ROUNDS = 4


def solved(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    diagnostics: Diagnostics,
    end_s: float,
) -> SearchResult:
    """Solve, place, and solve again with a little less room where the slots of spread replicas clash."""
    work = Work()
    bound: float | None = None
    day = day_of(problem)
    room = list(rooms)
    for round_number in range(_PLACING_ROUNDS):
        diagnostics.progress("sharing the inventory")
        solutions = solve_day(problem, supplies, room, day, (end_s, work))
        first = solutions[0]
        if first.value is None:
            return _nothing(problem, supplies, rooms, solutions, day, placed=round_number > 0)
        bound = first.bound if bound is None else bound
        solutions = _simplest(problem, supplies, room, solutions)
        first = solutions[0]
        diagnostics.progress("placing replicas")
        answers = [_answers(problem, supplies, solution) for solution in solutions]
        main = max(range(len(day)), key=lambda at: day[at].factor)
        items = items_of(problem, answers[main])
        placement = _placed(problem, items, rooms)
        if placement is not None:
            rates = {index: answer.served_rps for index, answer in enumerate(answers[main])}
            if not problem.payload.power_domains:
                placement = along_links(items, placement, rooms, problem.cluster, rates)
            solved = replace(first, bound=bound, status=first.status if round_number == 0 else "feasible")
            levels = list(zip(day, answers, strict=True))
            result = _result(problem, supplies, (solved, work), levels, (main, placement))
            facts = link_facts(problem, answers[main], placement, diagnostics)
            runners = _runners_up(problem, supplies, rooms, solved)
            return replace(result, alternatives=runners, details=(*result.details, *facts))
        room = [_less(one) for one in room]
    return without_plan(problem, supplies, "nothing_found", None)


def _placed(
    problem: Problem[FleetProblem], items: Sequence[Item], rooms: Sequence[Room]
) -> tuple[ReplicaPlacement, ...] | None:
    """Return where the replicas sit, under the caps of power domains that groups share."""
    if not problem.payload.power_domains:
        return place_fleet(items, rooms)
    capped = rooms_under(shared_power(problem.payload, rooms), rooms, items)
    return place_fleet(items, capped, node_domains(problem.payload, problem.cluster.groups))


def _simplest(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    solutions: list[MasterSolution],
) -> list[MasterSolution]:
    """Return the solution of a single level with whole replicas wherever these cost no more."""
    day = day_of(problem)
    master = master_of(problem, supplies, rooms, factor=day[0].factor)
    if len(day) > 1 or not master.minimises:
        return solutions
    return [replace(one, choices=simplest(master, one.choices)) for one in solutions]


def _runners_up(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    solved: MasterSolution,
) -> tuple[AlternativeChoice, ...]:
    """Return runners-up where one level of traffic is to be carried with the least."""
    day = day_of(problem)
    master = master_of(problem, supplies, rooms, factor=day[0].factor)
    if problem.options.num_alternatives < 1 or len(day) > 1 or not master.minimises:
        return ()
    return fleet_alternatives(problem, supplies, master, solved.choices, solved.value or 0.0)


def _less(room: Room) -> Room:
    kept = max(1, int(len(room.usable) * _SHRINK)) if len(room.usable) > 1 else 1
    return replace(room, usable=room.usable[:kept])


def _answers(
    problem: Problem[FleetProblem], supplies: Sequence[ModelSupply], solution: MasterSolution
) -> list[ModelAnswer]:
    return [
        answer_of(model, supply, chosen, problem.cluster.groups)
        for model, supply, chosen in zip(problem.payload.models, supplies, solution.choices, strict=True)
    ]


def _nothing(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    rooms: Sequence[Room],
    solutions: Sequence[MasterSolution],
    day: Sequence[TrafficLevel],
    *,
    placed: bool,
) -> SearchResult:
    if placed or solutions[0].status != "infeasible":
        return without_plan(problem, supplies, "nothing_found", None)
    factor = max(level.factor for level in day)
    return without_plan(problem, supplies, "infeasible", too_much(problem, supplies, rooms, factor))


def _result(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    solved: tuple[MasterSolution, Work],
    levels: Sequence[tuple[TrafficLevel, list[ModelAnswer]]],
    main: tuple[int, tuple[ReplicaPlacement, ...]],
) -> SearchResult:
    solution, work = solved
    at, placement = main
    answers = levels[at][1]
    complete = all(supply.complete for supply in supplies)
    return SearchResult(
        status="optimal" if solution.status == "optimal" and complete else "feasible",
        objective=_objective(problem, solution, complete=complete),
        pools=tuple(pool for answer in answers for pool in answer.pools),
        placement=placement,
        predicted=totals_of(problem, answers),
        alternatives=(),
        infeasibility=None,
        method=solution.method,
        work=(*_work(supplies), *sorted(work.counts.items())),
        space=SPACE,
        details=details_of(problem, supplies, levels, at),
    )


def _objective(problem: Problem[FleetProblem], solution: MasterSolution, *, complete: bool) -> ObjectiveValue:
    sense, unit = GOALS[problem.objective.name]
    bound, gap = solution.bound, None
    if not complete:
        bound = None
    if bound is not None and solution.value is not None:
        bound = max(bound, solution.value) if sense == "max" else min(bound, solution.value)
        gap = (
            abs(solution.value - bound) / max(abs(solution.value), 1e-300) if solution.value != bound else 0.0
        )
    return ObjectiveValue(
        name=problem.objective.name, unit=unit, sense=sense, value=solution.value, bound=bound, gap=gap
    )


def _work(supplies: Sequence[ModelSupply]) -> tuple[tuple[str, float | int], ...]:
    return (
        ("shapes", sum(supply.num_shapes for supply in supplies)),
        ("shapes_that_fit", sum(supply.num_fitting for supply in supplies)),
        ("columns", sum(len(supply.columns) for supply in supplies)),
    )


def without_plan(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    status: str,
    report: InfeasibilityReport | None,
) -> SearchResult:
    """Return a result without a plan, with why there is none where that is known."""
    sense, unit = GOALS[problem.objective.name]
    return SearchResult(
        status="infeasible" if status == "infeasible" else "nothing_found",
        objective=ObjectiveValue(
            name=problem.objective.name, unit=unit, sense=sense, value=None, bound=None, gap=None
        ),
        pools=(),
        placement=(),
        predicted=(),
        alternatives=(),
        infeasibility=report,
        method="integer program over columns",
        work=_work(supplies),
        space=SPACE,
    )
