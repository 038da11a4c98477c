"""Fusing: I and W in a row become one whole backward pass, where nobody loses by it."""

from __future__ import annotations

from planner.ir.pipeline_schedule import PipelineOp, PipelineSchedule

_TOLERANCE = 1e-9


def fuse(schedule: PipelineSchedule) -> PipelineSchedule:
    """Return the schedule with such pairs fused; nothing starts or ends later than before.

    A pair is fused if the W follows its I without a pause and the stage before, if any, starts its own
    gradient late enough to wait for the W as well. A whole backward pass keeps the graph for less long and
    costs a runtime less than two halves.
    """
    work = schedule.work
    begins = {
        (op.stage, op.microbatch): start
        for ops, starts in zip(schedule.device_ops, schedule.start_s, strict=True)
        for op, start in zip(ops, starts, strict=True)
        if op.kind in ("I", "B")
    }
    slack = _TOLERANCE * max(schedule.makespan_s(), 1e-30)
    rows: list[tuple[PipelineOp, ...]] = []
    times: list[tuple[float, ...]] = []
    for ops, starts in zip(schedule.device_ops, schedule.start_s, strict=True):
        new_ops: list[PipelineOp] = []
        new_starts: list[float] = []
        for op, start in zip(ops, starts, strict=True):
            if op.kind == "W" and new_ops and _same_pass(new_ops[-1], op):
                begin = new_starts[-1]
                whole = PipelineOp(kind="B", stage=op.stage, microbatch=op.microbatch)
                end = begin + work.duration_s(whole)
                adjacent = start <= begin + work.stages[op.stage].backward_input_s + slack
                if adjacent and end + _lag(schedule, op) <= _needed_at(schedule, op, begins) + slack:
                    new_ops[-1] = whole
                    continue
            new_ops.append(op)
            new_starts.append(start)
        rows.append(tuple(new_ops))
        times.append(tuple(new_starts))
    return PipelineSchedule(name=schedule.name, work=work, device_ops=tuple(rows), start_s=tuple(times))


def _same_pass(before: PipelineOp, op: PipelineOp) -> bool:
    return before.kind == "I" and (before.stage, before.microbatch) == (op.stage, op.microbatch)


def _needed_at(schedule: PipelineSchedule, op: PipelineOp, begins: dict[tuple[int, int], float]) -> float:
    route = schedule.work.routes[op.microbatch]
    place = route.index(op.stage)
    return float("inf") if place == 0 else begins[route[place - 1], op.microbatch]


def _lag(schedule: PipelineSchedule, op: PipelineOp) -> float:
    work = schedule.work
    route = work.routes[op.microbatch]
    place = route.index(op.stage)
    if place == 0 or work.stages[route[place - 1]].device == work.stages[op.stage].device:
        return 0.0
    return work.send_s
