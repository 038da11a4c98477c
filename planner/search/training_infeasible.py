"""Why there is no training plan, and the nearest problem that has one, found by solving again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.ir.cluster import NodeGroup
from planner.ir.objective import Objective
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_exact import Effort

Case = Problem[TrainingProblem]
Solve = Callable[[Case], "tuple[float, float] | None"]
_MOST_DOUBLINGS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A loosened problem: which limit, in words, and what to set it to (where that is known beforehand)."""

    name: str
    limit: float | None
    unit: str
    words: str
    problem: Case
    relaxed: tuple[tuple[str, float | int | str], ...] = ()


def explain_infeasible(problem: Case, efforts: Sequence[Effort], solve: Solve) -> InfeasibilityReport:
    """Return what binds: each limit is loosened alone, and named where that is enough for a plan."""
    binding: list[BindingLimit] = []
    relaxed: tuple[tuple[str, float | int | str], ...] = ()
    words = ""
    for change in _changes(problem):
        if any(limit.name == change.name for limit in binding):
            continue
        answer = solve(change.problem)
        if answer is None:
            continue
        reach, name, values = _reached(problem, change, answer[1])
        binding.append(
            BindingLimit(
                name=change.name,
                limit=change.limit,
                best_reachable=reach,
                unit=change.unit,
                message=name,
            )
        )
        if not words:
            words, relaxed = name, values
    memory = _memory(problem, efforts)
    if memory is not None:
        binding.insert(0, memory)
    if not words:
        words = "no single change helps: fewer limits, a smaller model or more devices"
    if not binding:
        binding.append(
            BindingLimit(name="space", limit=None, best_reachable=None, unit="", message="no plan is valid")
        )
    return InfeasibilityReport(binding=tuple(binding), nearest_relaxation=words, relaxed=relaxed)


def _reached(
    problem: Case, change: _Change, step_s: float
) -> tuple[float | None, str, tuple[tuple[str, float | int | str], ...]]:
    """Return what a limit would have to be, the change in words, and the change as values."""
    workload = problem.payload.workload
    if change.name == "deadline_s" and workload.num_tokens is not None:
        run_s = workload.num_tokens / workload.tokens_per_step * step_s
        return run_s, f"the run takes {run_s:.6g} s at best", (("deadline_s", run_s),)
    return None, change.words, change.relaxed


def _memory(problem: Case, efforts: Sequence[Effort]) -> BindingLimit | None:
    """Return memory as a limit where no row that was looked at fits."""
    least = min((effort.least_bytes for effort in efforts), default=float("inf"))
    reserve = problem.payload.memory_reserve_bytes
    there = max(group.device.memory_bytes.value for group in problem.cluster.groups)
    if not there - reserve < least < float("inf"):
        return None
    return BindingLimit(
        name="device_memory_bytes",
        limit=there - reserve,
        best_reachable=least,
        unit="B",
        message=f"the leanest plan needs {least / 1e9:.4g} GB per device, there are "
        f"{(there - reserve) / 1e9:.4g} GB",
    )


def _changes(problem: Case) -> Iterator[_Change]:
    payload = problem.payload
    choices = payload.choices
    if payload.workload.deadline_s is not None:
        free = replace(payload, workload=replace(payload.workload, deadline_s=None))
        yield _Change(
            name="deadline_s",
            limit=payload.workload.deadline_s,
            unit="s",
            words="",
            problem=replace(problem, payload=free, objective=Objective(name="min_step_time")),
        )
    for name, value in choices.fixed:
        rest = tuple(pair for pair in choices.fixed if pair[0] != name)
        yield _Change(
            name=f"fix.{name}",
            limit=None,
            unit="",
            words=f"without fixing {name}={value} there is a plan",
            problem=replace(problem, payload=replace(payload, choices=replace(choices, fixed=rest))),
            relaxed=((f"fix.{name}", "free"),),
        )
    if len(choices.fixed) > 1:
        yield _Change(
            name="fix",
            limit=None,
            unit="",
            words="without fixing any degree there is a plan",
            problem=replace(problem, payload=replace(payload, choices=replace(choices, fixed=()))),
            relaxed=(("fix", "free"),),
        )
    yield from _leaner(problem)
    yield from _budgets(problem)
    yield from _larger(problem)


def _leaner(problem: Case) -> Iterator[_Change]:
    """Yield the same problem with everything allowed that saves memory."""
    payload = problem.payload
    choices = payload.choices
    everything = replace(
        choices,
        zeros=(0, 1, 2, 3),
        recomputes=("none", "selective", "full"),
        offloads=tuple(dict.fromkeys((*choices.offloads, "none", "optimizer", "optimizer_and_parameters"))),
    )
    if replace(everything, offloads=choices.offloads) != choices:
        yield _Change(
            name="choices",
            limit=None,
            unit="",
            words="with every recompute and ZeRO level allowed there is a plan",
            problem=replace(
                problem, payload=replace(payload, choices=replace(everything, offloads=choices.offloads))
            ),
            relaxed=(("recompute", "none, selective, full"), ("zero", "0, 1, 2, 3")),
        )
    if choices.offloads != everything.offloads:
        yield _Change(
            name="offload",
            limit=None,
            unit="",
            words="with offload of optimizer states and parameters allowed there is a plan",
            problem=replace(problem, payload=replace(payload, choices=everything)),
            relaxed=(("offload", ", ".join(everything.offloads)),),
        )


def _budgets(problem: Case) -> Iterator[_Change]:
    for name, unit in (("num_devices", "devices"), ("usd_per_hour", "USD/h"), ("power_w", "W")):
        limit = getattr(problem.budget, name)
        if limit is not None:
            yield _Change(
                name=name,
                limit=float(limit),
                unit=unit,
                words=f"without the budget of {limit:g} {unit} there is a plan",
                problem=replace(problem, budget=replace(problem.budget, **{name: None})),
                relaxed=((name, "free"),),
            )


def _larger(problem: Case) -> Iterator[_Change]:
    """Yield clusters with more and more nodes of the same kinds."""
    for power in range(1, _MOST_DOUBLINGS):
        times = 2**power
        groups = tuple(_grown(group, times) for group in problem.cluster.groups)
        devices = sum(group.num_devices for group in groups)
        yield _Change(
            name="cluster",
            limit=float(problem.cluster.num_devices),
            unit="devices",
            words=f"on {times} times as many nodes ({devices} devices) there is a plan",
            problem=replace(problem, cluster=replace(problem.cluster, groups=groups)),
            relaxed=(("num_devices", devices),),
        )


def _grown(group: NodeGroup, times: int) -> NodeGroup:
    outermost = replace(group.levels[-1], num_devices=group.levels[-1].num_devices * times)
    return replace(
        group, num_nodes=group.num_nodes * times, levels=(*group.levels[:-1], outermost), node_names=()
    )
