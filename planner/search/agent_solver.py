"""The solver of a scheduling model: its workers and limits, hints, progress, and schedules read back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal

from ortools.sat.python import cp_model

from planner.ir.scheduling_problem import Run, Schedule, SchedulingProblem
from planner.search.agent_model import Vars

NEIGHBOURS = ("no_lp",)
"""What works beside the searches of neighbours: orders below the best, without linear programmes."""
_REFUTING = ("no_lp",)
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SolverLimits:
    """Limits of one call of the solver, and how its workers take turns (see `ScheduleOptions`)."""

    time_s: float
    deterministic: float | None
    seed: int
    num_workers: int
    reproducible: bool


def _is_project(problem: SchedulingProblem) -> bool:
    """Whether tasks share several resources that serve more than one of them at once.

    Such projects are proved soonest by the solver's default search; shops and task graphs on equal
    processors by the one that branches on reduced costs (measured on the public sets).
    """
    shared = {d.resource for _, _, d in problem.demands() if problem.resources[d.resource].capacity > 1}
    return len([r for r in shared if problem.resources[r].renewable]) > 1


def proving_workers(problem: SchedulingProblem) -> tuple[str, ...]:
    """Return the workers that prove a problem: one by loads, and one without linear programmes by orders."""
    return ("default_lp" if _is_project(problem) else "reduced_costs", "no_lp")


def solver_of(limits: SolverLimits, workers: tuple[str, ...]) -> cp_model.CpSolver:
    """Return a solver; workers beyond those named search neighbourhoods of the best schedule."""
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.max_time_in_seconds = max(limits.time_s, 0.1)
    if limits.deterministic is not None:
        parameters.max_deterministic_time = limits.deterministic
    parameters.random_seed = limits.seed
    parameters.num_workers = limits.num_workers
    parameters.interleave_search = limits.reproducible and limits.num_workers > 1
    if limits.num_workers > 1:
        parameters.subsolvers.extend(workers)  # pyright: ignore[reportUnknownMemberType] - no stubs
    elif workers[0] != "default_lp":
        parameters.subsolvers.append(workers[0])  # pyright: ignore[reportUnknownMemberType] - no stubs
    return solver


def solve_alone(
    solver: cp_model.CpSolver, model: cp_model.CpModel, listener: cp_model.CpSolverSolutionCallback | None
) -> cp_model.CpSolverStatus:
    """Solve one model; an interrupt stops the solver, and one that comes later is Python's again."""
    try:
        return solver.solve(model, listener)
    finally:
        # the solver leaves the signal to the system, which would end the process without an answer
        handler = signal.getsignal(signal.SIGINT)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def solve_together(
    models: list[cp_model.CpModel], limits: SolverLimits
) -> list[tuple[cp_model.CpSolverStatus | None, cp_model.CpSolver]]:
    """Solve models at once, each by a solver of its own; the status is None where the user interrupted."""
    solvers = [solver_of(limits, _REFUTING) for _ in models]
    for solver in solvers:
        # the signal's handler belongs to one solver alone: here the interrupt comes to this thread instead
        solver.parameters.catch_sigint_signal = False
    with ThreadPoolExecutor(len(models)) as threads:
        running = [threads.submit(s.solve, m) for s, m in zip(solvers, models, strict=True)]
        try:
            wait(running)
        except KeyboardInterrupt:
            _stop(solvers, running)
            return [(None, solver) for solver in solvers]
    return [(future.result(), solver) for future, solver in zip(running, solvers, strict=True)]


def _stop(solvers: list[cp_model.CpSolver], running: list[Future[cp_model.CpSolverStatus]]) -> None:
    """Stop solvers, those too that are about to begin."""
    while wait(running, timeout=_POLL_S).not_done:
        for solver in solvers:
            solver.stop_search()


def outcome_of(
    verdict: cp_model.CpSolverStatus | None,
) -> Literal["refuted", "found", "open", "stopped"]:
    """Return what a verdict says of the limit that was asked for."""
    if verdict is None:
        return "stopped"
    if verdict == cp_model.INFEASIBLE:
        return "refuted"
    return "found" if verdict in (cp_model.OPTIMAL, cp_model.FEASIBLE) else "open"


def hint_at(model: cp_model.CpModel, variables: Vars, seed: Schedule) -> None:
    """Hint the starts and modes of a schedule."""
    hinted: set[int] = set()
    for start, chosen, run in zip(variables.starts, variables.chosen, seed.runs, strict=True):
        model.add_hint(start, int(run.start_s))
        # tasks that share their mode share its literals, which may be hinted once
        if len(chosen) > 1 and chosen[0].index not in hinted:
            hinted.add(chosen[0].index)
            for number, literal in enumerate(chosen):
                model.add_hint(literal, number == run.mode)
    model.add_hint(variables.makespan, int(max((run.end_s for run in seed.runs), default=0.0)))


def read_schedule(problem: SchedulingProblem, solver: cp_model.CpSolver, variables: Vars) -> Schedule:
    """Return the schedule that the solver found."""
    runs: list[Run] = []
    for task, start, chosen in zip(problem.tasks, variables.starts, variables.chosen, strict=True):
        mode = 0 if len(chosen) == 1 else next(m for m, lit in enumerate(chosen) if solver.boolean_value(lit))
        begin = solver.value(start)
        runs.append(Run(mode=mode, start_s=begin, end_s=begin + task.modes[mode].duration_s))
    return Schedule(runs=tuple(runs))


class Progress(cp_model.CpSolverSolutionCallback):
    """Tells the listener about every better schedule."""

    def __init__(self, on_progress: Callable[[str], None], unit: float) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._unit = unit

    def on_solution_callback(self) -> None:
        """Report value and bound."""
        value, bound = self.objective_value * self._unit, self.best_objective_bound * self._unit
        self._on_progress(f"{self.wall_time:.1f} s: value {value:.6g}, bound {bound:.6g}")
