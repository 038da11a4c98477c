"""Exact pipeline schedules: the whole step as one constraint programme.

Variables: the start of each operation. Constraints, flat and in order below: what an operation waits for;
first in, first out per stage and kind (micro-batches are interchangeable); one operation at a time per
device; activation memory as a cumulative resource with two intervals per micro-batch and stage. Objective:
the makespan, or the longest time from a device's first start to its last end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil, inf

from ortools.sat.python import cp_model

from planner.ir.pipeline_schedule import PipelineOp, PipelineSchedule, PipelineWork
from planner.search.scaling import Scale, choose_scale
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_orders import ScheduleGoal
from planner.space.schedule_timing import timed

MOST_TIME_STEPS = 200
MOST_MEMORY_STEPS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class CpOptions:
    """Limits of one solve: `deterministic_limit` counts work, `time_limit_s` wall seconds."""

    seed: int = 0
    deterministic_limit: float = 20.0
    time_limit_s: float = 60.0
    on_progress: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CpResult:
    """What a solve gave: no schedule where none was found, a bound for the true times, CP-SAT's status."""

    schedule: PipelineSchedule | None
    bound_s: float
    status: str
    num_branches: int


class _Progress(cp_model.CpSolverSolutionCallback):
    def __init__(self, say: Callable[[str], None], unit: float) -> None:
        super().__init__()
        self._say = say
        self._unit = unit

    def on_solution_callback(self) -> None:
        """Report the new incumbent and the bound."""
        value, bound = self.objective_value * self._unit, self.best_objective_bound * self._unit
        self._say(f"cp-sat: incumbent {value:.6g} s, bound {bound:.6g} s")


def solve(
    work: PipelineWork, goal: ScheduleGoal, hint: PipelineSchedule | None, options: CpOptions
) -> CpResult:
    """Return the best schedule CP-SAT finds within its limits, re-timed with the true times, and a bound."""
    scale = choose_scale(pass_times_s(work), most_steps=MOST_TIME_STEPS)
    coarse, exact_memory = quantised(work, scale)
    model = _Model(coarse, goal, hint)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = options.seed
    solver.parameters.max_deterministic_time = options.deterministic_limit
    solver.parameters.max_time_in_seconds = options.time_limit_s
    progress = _Progress(options.on_progress, scale.unit) if options.on_progress else None
    status = solver.solve(model.model, progress)
    steps = max(solver.best_objective_bound, 0.0) if status != cp_model.INFEASIBLE else inf
    schedule = None
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        schedule = timed(work, model.orders(solver), "cp-sat", align_late=goal == "longest_stage")
    bound = scale.value(steps) / _stretch(work, scale) if exact_memory else 0.0
    return CpResult(
        schedule=schedule, bound_s=bound, status=solver.status_name(status), num_branches=solver.num_branches
    )


def pass_times_s(work: PipelineWork) -> list[float]:
    """Return the send time and the times of all passes of all stages."""
    passes = [t for s in work.stages for t in (s.forward_s, s.backward_input_s, s.backward_weight_s)]
    return [work.send_s, *passes]


def quantised(work: PipelineWork, scale: Scale, *, nearest: bool = False) -> tuple[PipelineWork, bool]:
    """Return the work in whole steps of time and memory, rounded so that what fits it fits `work`.

    With `nearest`, times are rounded to the nearest step instead: for patterns that are re-timed later.
    The second value tells whether memory is represented exactly; a bound holds for `work` only then.
    """
    step = scale.nearest if nearest else scale.up
    finite = [limit for limit in work.memory_limit_bytes if limit < inf]
    held = [b for s in work.stages for b in (s.activation_bytes, s.weight_activation_bytes)]
    memory = choose_scale([*held, 1.0] if not any(held) else held, most_steps=MOST_MEMORY_STEPS)
    stages = tuple(
        replace(
            s,
            forward_s=step(s.forward_s),
            backward_input_s=step(s.backward_input_s),
            backward_weight_s=step(s.backward_weight_s),
            activation_bytes=memory.up(s.activation_bytes),
            weight_activation_bytes=memory.up(s.weight_activation_bytes),
        )
        for s in work.stages
    )
    limits = tuple(
        float(memory.down(limit)) if limit < inf and finite else inf for limit in work.memory_limit_bytes
    )
    coarse = replace(work, stages=stages, send_s=step(work.send_s), memory_limit_bytes=limits)
    return coarse, memory.exact or not finite


def _stretch(work: PipelineWork, scale: Scale) -> float:
    """Return by how much rounding up can lengthen a path of passes and sends, at most.

    A path has no more sends than passes, so the worst ratio of a pass, or of a pass and its send, is it.
    """
    if scale.exact:
        return 1.0
    send, worst = work.send_s, 1.0
    for time in pass_times_s(work)[1:]:
        if time > 0:
            ups = scale.up(time) * scale.unit
            worst = max(worst, ups / time, (ups + scale.up(send) * scale.unit) / (time + send))
    return worst


class _Model:
    """The constraint programme of a work whose times and memory are whole numbers."""

    def __init__(self, work: PipelineWork, goal: ScheduleGoal, hint: PipelineSchedule | None) -> None:
        self.work = work
        self.model = cp_model.CpModel()
        self.horizon = round(sum(work.device_work_s()) + work.send_s * 2 * sum(map(len, work.routes)))
        self.ops = [
            PipelineOp(kind=kind, stage=s, microbatch=m)
            for m, route in enumerate(work.routes)
            for s in route
            for kind in ("F", "I", "W")
        ]
        self.start = {op: self.model.new_int_var(0, self.horizon, str(op)) for op in self.ops}
        self._dependencies()
        self._first_in_first_out()
        self._one_at_a_time()
        self._memory()
        self._objective(goal)
        if hint is not None:
            self._hint(hint)

    def _end(self, op: PipelineOp) -> cp_model.LinearExpr:
        return self.start[op] + round(self.work.duration_s(op))

    def _dependencies(self) -> None:
        """start(op) >= end(what it waits for) + send."""
        work, add = self.work, self.model.add
        for m, route in enumerate(work.routes):
            forward = [PipelineOp(kind="F", stage=s, microbatch=m) for s in route]
            inputs = [PipelineOp(kind="I", stage=s, microbatch=m) for s in route]
            for i, s in enumerate(route):
                add(self.start[PipelineOp(kind="W", stage=s, microbatch=m)] >= self._end(inputs[i]))
                if i + 1 < len(route):
                    near = work.stages[s].device == work.stages[route[i + 1]].device
                    lag = 0 if near else round(work.send_s)
                    add(self.start[forward[i + 1]] >= self._end(forward[i]) + lag)
                    add(self.start[inputs[i]] >= self._end(inputs[i + 1]) + lag)
            add(self.start[inputs[-1]] >= self._end(forward[-1]))

    def _first_in_first_out(self) -> None:
        """start(kind, stage, next micro-batch) >= end(kind, stage, micro-batch), for those of equal routes.

        Only these are interchangeable: between others, any order may be the best.
        """
        last: dict[tuple[str, int, tuple[int, ...]], PipelineOp] = {}
        for op in self.ops:
            key = (op.kind, op.stage, self.work.routes[op.microbatch])
            before = last.get(key)
            if before is not None:
                self.model.add(self.start[op] >= self._end(before))
            last[key] = op
        self.last = last

    def _one_at_a_time(self) -> None:
        """Operations of a device do not overlap."""
        rows: list[list[cp_model.IntervalVar]] = [[] for _ in range(self.work.num_devices)]
        for op in self.ops:
            length = round(self.work.duration_s(op))
            interval = self.model.new_fixed_size_interval_var(self.start[op], length, f"run {op}")
            rows[self.work.stages[op.stage].device].append(interval)
        for row in rows:
            self.model.add_no_overlap(row)

    def _memory(self) -> None:
        """On each device: activations of all forward passes not yet taken back fit the limit."""
        work = self.work
        for device, limit in enumerate(work.memory_limit_bytes):
            if limit == inf:
                continue
            intervals: list[cp_model.IntervalVar] = []
            demands: list[int] = []
            for m, route in enumerate(work.routes):
                for s in route:
                    stage = work.stages[s]
                    weight = round(stage.weight_activation_bytes)
                    parts = (("I", round(stage.activation_bytes) - weight), ("W", weight))
                    for kind, demand in parts:
                        if stage.device == device and demand > 0:
                            intervals.append(self._held(kind, s, m))
                            demands.append(demand)
            self.model.add_cumulative(intervals, demands, round(limit))

    def _held(self, kind: str, stage: int, microbatch: int) -> cp_model.IntervalVar:
        begin = self.start[PipelineOp(kind="F", stage=stage, microbatch=microbatch)]
        last = PipelineOp(kind="I" if kind == "I" else "W", stage=stage, microbatch=microbatch)
        size = self.model.new_int_var(0, self.horizon, f"life {last}")
        return self.model.new_interval_var(begin, size, self._end(last), f"held {last}")

    def _objective(self, goal: ScheduleGoal) -> None:
        """Minimise the makespan, or the longest span of a device."""
        low = ceil(lower_bound_s(self.work, goal) - 1e-6)
        self.value = self.model.new_int_var(low, self.horizon, "value")
        origins: dict[int, cp_model.IntVar] = {}
        for op in self.ops:
            if op.kind != "F" or goal == "makespan":
                continue
            device = self.work.stages[op.stage].device
            if device not in origins:
                origins[device] = self.model.new_int_var(0, self.horizon, f"origin {device}")
            self.model.add(origins[device] <= self.start[op])
        for (kind, stage, _), op in self.last.items():
            if kind == "W":
                origin = origins.get(self.work.stages[stage].device, 0)
                self.model.add(self.value >= self._end(op) - origin)
        self.model.minimize(self.value)

    def _hint(self, hint: PipelineSchedule) -> None:
        """Start from a schedule: its orders, timed with the whole-number times."""
        again = timed(self.work, hint.device_ops, hint.name, align_late=True)
        for ops, starts in zip(again.device_ops, again.start_s, strict=True):
            for op, start in zip(ops, starts, strict=True):
                self.model.add_hint(self.start[op], round(start))

    def orders(self, solver: cp_model.CpSolver) -> tuple[tuple[PipelineOp, ...], ...]:
        """Return the device orders of the solution; operations without length go first among equals."""
        rows: list[list[tuple[int, int, int, PipelineOp]]] = [[] for _ in range(self.work.num_devices)]
        rank = {"F": 2, "I": 0, "W": 1}
        for op in self.ops:
            key = (solver.value(self.start[op]), round(self.work.duration_s(op)), rank[op.kind], op)
            rows[self.work.stages[op.stage].device].append(key)
        return tuple(tuple(entry[3] for entry in sorted(row)) for row in rows)
