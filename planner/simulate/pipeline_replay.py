"""Second opinion on a pipeline schedule: its orders are executed event by event.

Nothing here is shared with the code that builds, times or searches schedules; only the IR is.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass

from planner.errors import VerificationError
from planner.ir.pipeline_schedule import PipelineOp, PipelineSchedule, PipelineWork

_TOLERANCE = 1e-9
_Done = dict[tuple[str, int, int], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What happened when every device ran its operations in order, each as soon as it could.

    `memory` holds for each device (time_s, bytes held from then on) at each change.
    """

    start_s: tuple[tuple[float, ...], ...]
    makespan_s: float
    longest_stage_s: float
    busy_s: tuple[float, ...]
    memory: tuple[tuple[tuple[float, float], ...], ...]
    peak_memory_bytes: tuple[float, ...]

    @property
    def bubble_fraction(self) -> float:
        """Part of all devices' time until the makespan that is idle."""
        return 1.0 - sum(self.busy_s) / (self.makespan_s * len(self.busy_s))


def replay(schedule: PipelineSchedule) -> Replay:
    """Return what executing the orders of `schedule` yields; its own start times are not looked at.

    Raises
    ------
    VerificationError
        If operations are missing, doubled or on the wrong device, if the orders deadlock, or if a
        device exceeds its memory.
    """
    work = schedule.work
    _check_coverage(schedule)
    starts = _execute(schedule)
    ends = [
        [s + work.duration_s(op) for s, op in zip(row, ops, strict=True)]
        for row, ops in zip(starts, schedule.device_ops, strict=True)
    ]
    profiles = tuple(
        _memory_profile(work, ops, starts[d], ends[d]) for d, ops in enumerate(schedule.device_ops)
    )
    peaks = tuple(max((held for _, held in profile), default=0.0) for profile in profiles)
    for device, (peak, limit) in enumerate(zip(peaks, work.memory_limit_bytes, strict=True)):
        if peak > limit * (1 + _TOLERANCE):
            raise VerificationError(f"device {device} holds {peak:g} of activations, its limit is {limit:g}")
    spans = [(row_s[0], row_e[-1]) for row_s, row_e in zip(starts, ends, strict=True) if row_s]
    return Replay(
        start_s=tuple(tuple(row) for row in starts),
        makespan_s=max(e for _, e in spans) - min(s for s, _ in spans),
        longest_stage_s=max(e - s for s, e in spans),
        busy_s=tuple(sum(work.duration_s(op) for op in ops) for ops in schedule.device_ops),
        memory=profiles,
        peak_memory_bytes=peaks,
    )


def check_times(schedule: PipelineSchedule) -> None:
    """Check that the start times written in `schedule` can be kept.

    Raises
    ------
    VerificationError
        If two operations of a device overlap or one starts before what it needs has arrived.
    """
    work = schedule.work
    slack = _TOLERANCE * max(schedule.makespan_s(), 1e-30)
    done: _Done = {}
    for ops, starts in zip(schedule.device_ops, schedule.start_s, strict=True):
        free = -float("inf")
        for op, start in zip(ops, starts, strict=True):
            if start < free - slack:
                raise VerificationError(f"{op} starts at {start:g} while its device is busy until {free:g}")
            free = start + work.duration_s(op)
            done[_key(op)] = free
    for ops, starts in zip(schedule.device_ops, schedule.start_s, strict=True):
        for op, start in zip(ops, starts, strict=True):
            for needed, lag in _needs(work, op):
                if start < done[needed] + lag - slack:
                    raise VerificationError(f"{op} starts at {start:g} before {needed} is done and sent")


def _key(op: PipelineOp) -> tuple[str, int, int]:
    return ("I" if op.kind == "B" else op.kind, op.stage, op.microbatch)


def _check_coverage(schedule: PipelineSchedule) -> None:
    work = schedule.work
    wanted = {(s, m) for m, route in enumerate(work.routes) for s in route}
    seen: Counter[tuple[str, int, int]] = Counter()
    for device, ops in enumerate(schedule.device_ops):
        for op in ops:
            if (op.stage, op.microbatch) not in wanted or work.stages[op.stage].device != device:
                raise VerificationError(f"{op} does not belong on device {device}")
            seen[_key(op)] += 1
            if op.kind == "B":
                seen["W", op.stage, op.microbatch] += 1
    for stage, microbatch in wanted:
        for kind in "FIW":
            if seen[kind, stage, microbatch] != 1:
                count = seen[kind, stage, microbatch]
                raise VerificationError(f"{stage}{kind}{microbatch} is scheduled {count} times")


def _needs(work: PipelineWork, op: PipelineOp) -> list[tuple[tuple[str, int, int], float]]:
    route = work.routes[op.microbatch]
    place = route.index(op.stage)
    if op.kind == "W":
        return [(("I", op.stage, op.microbatch), 0.0)]
    needed: list[tuple[str, int]] = []
    if op.kind == "F":
        needed += [("F", s) for s in route[max(place - 1, 0) : place]]
    else:
        needed.append(("F", op.stage))
        needed += [("I", s) for s in route[place + 1 : place + 2]]
    return [((kind, s, op.microbatch), work.send_between_s(s, op.stage)) for kind, s in needed]


def _execute(schedule: PipelineSchedule) -> list[list[float]]:
    """Run the devices as a discrete-event simulation: an event is the end of an operation."""
    work = schedule.work
    starts: list[list[float]] = [[] for _ in schedule.device_ops]
    done: _Done = {}
    busy = [False] * len(schedule.device_ops)
    events: list[tuple[float, int, PipelineOp]] = []
    blocked: dict[tuple[str, int, int], list[int]] = {}

    def try_next(device: int, now: float) -> None:
        ops = schedule.device_ops[device]
        if busy[device] or len(starts[device]) == len(ops):
            return
        op = ops[len(starts[device])]
        start = now
        for needed, lag in _needs(work, op):
            if needed not in done:
                blocked.setdefault(needed, []).append(device)
                return
            start = max(start, done[needed] + lag)
        busy[device] = True
        starts[device].append(start)
        heapq.heappush(events, (start + work.duration_s(op), device, op))

    for device in range(len(schedule.device_ops)):
        try_next(device, 0.0)
    while events:
        now, device, op = heapq.heappop(events)
        done[_key(op)] = now
        busy[device] = False
        try_next(device, now)
        for other in blocked.pop(_key(op), ()):
            try_next(other, now)
    stuck = [
        str(ops[len(row)])
        for row, ops in zip(starts, schedule.device_ops, strict=True)
        if len(row) < len(ops)
    ]
    if stuck:
        raise VerificationError(f"deadlock: these wait for each other: {', '.join(stuck[:8])}")
    return starts


def _memory_profile(
    work: PipelineWork, ops: tuple[PipelineOp, ...], starts: list[float], ends: list[float]
) -> tuple[tuple[float, float], ...]:
    """Return (time, bytes held), releases before acquisitions where a device goes on without a pause."""
    changes: list[tuple[float, int, float]] = []
    for index, op in enumerate(ops):
        stage = work.stages[op.stage]
        weight = stage.weight_activation_bytes
        if op.kind == "F":
            changes.append((starts[index], index, stage.activation_bytes))
        elif op.kind == "I":
            changes.append((ends[index], index, weight - stage.activation_bytes))
        else:
            freed = weight if op.kind == "W" else stage.activation_bytes
            changes.append((ends[index], index, -freed))
    held = 0.0
    profile: list[tuple[float, float]] = []
    for time, _, change in sorted(changes):
        held += change
        profile.append((time, held))
    return tuple(profile)
