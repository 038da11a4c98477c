"""Lower bounds of a pipeline step, for any stages, routes and memory limits.

Every bound holds for every schedule, so the largest of them proves how far from the best a schedule can be.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import floor, inf

from planner.ir.pipeline_schedule import PipelineWork
from planner.search.schedule_orders import ScheduleGoal

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class _Visit:
    """One stage on a route: earliest start of F, shortest way from it to the end of I, what follows I."""

    head_s: float
    round_trip_s: float
    after_s: float


def lower_bound_s(work: PipelineWork, goal: ScheduleGoal) -> float:
    """Return a time that no schedule of `work` can beat under `goal`.

    Three bounds per device d. Work: all its passes run one after the other, for the makespan not before
    the first micro-batch can arrive. For equal stages in a chain the last device gives
    (p - 1)(T_F + T_send) + m (T_F + T_I + T_W). Round trip: with room for k micro-batches, forward
    pass number j + k waits for input gradient j. Area: the activations of one micro-batch occupy at
    least bytes times their shortest life, and all of them must fit under the limit.
    """
    visits = {route: _visits(work, route) for route in set(work.routes)}
    bounds = [_chain_s(work, route) for route in visits]
    for device, total in enumerate(work.device_work_s()):
        if total <= 0:
            continue
        places = [
            (visits[route][i], stage)
            for route in work.routes
            for i, stage in enumerate(route)
            if work.stages[stage].device == device
        ]
        head = min(visit.head_s for visit, _ in places) if goal == "makespan" else 0.0
        bounds.append(head + total)
        bounds.append(head + _area_s(work, device, places))
        stages = {stage for _, stage in places}
        if len(stages) == 1:
            bounds.append(
                head + _round_trip_s(work, device, [visit for visit, _ in places], stages.pop(), goal)
            )
    return max(bounds)


def _visits(work: PipelineWork, route: tuple[int, ...]) -> list[_Visit]:
    sends = [
        0.0 if work.stages[a].device == work.stages[b].device else work.send_s for a, b in pairwise(route)
    ]
    heads = [0.0]
    back = [0.0]
    for i, send in enumerate(sends):
        heads.append(heads[-1] + work.stages[route[i]].forward_s + send)
        back.append(back[-1] + work.stages[route[i]].backward_input_s + send)
    end = heads[-1] + work.stages[route[-1]].forward_s
    bottom = back[-1] + work.stages[route[-1]].backward_input_s
    return [
        _Visit(head_s=heads[i], round_trip_s=end - heads[i] + bottom - back[i], after_s=back[i])
        for i in range(len(route))
    ]


def _chain_s(work: PipelineWork, route: tuple[int, ...]) -> float:
    """Return the time of one micro-batch alone, on the device where it began."""
    first = _visits(work, route)[0]
    return first.round_trip_s + work.stages[route[0]].backward_weight_s


def _area_s(work: PipelineWork, device: int, places: list[tuple[_Visit, int]]) -> float:
    limit = work.memory_limit_bytes[device] * (1 + _ROUNDING)
    if limit == inf:
        return 0.0
    area = 0.0
    for visit, index in places:
        stage = work.stages[index]
        area += stage.activation_bytes * visit.round_trip_s
        area += stage.weight_activation_bytes * stage.backward_weight_s
    return area / limit if limit > 0 else 0.0


def _round_trip_s(
    work: PipelineWork, device: int, visits: list[_Visit], index: int, goal: ScheduleGoal
) -> float:
    """Return the bound that a device with one stage and room for k micro-batches in flight gives.

    Micro-batch number q k (counted from 0) starts q round trips after the first, at least; where k whole
    activations and one W part do not fit together, each round also contains an I or a W in between. The
    last r = (m - 1) mod k micro-batches then still need their own slots, one W is last, and for the
    makespan the gradient goes on to the first stage.
    """
    stage, limit = work.stages[index], work.memory_limit_bytes[device] * (1 + _ROUNDING)
    if limit == inf or stage.activation_bytes <= 0:
        return 0.0
    room = floor(limit / stage.activation_bytes)
    if room < 1:
        return inf
    extra = 0.0
    if room * stage.activation_bytes + stage.weight_activation_bytes > limit:
        extra = min(stage.backward_input_s, stage.backward_weight_s)
    trip = min(visit.round_trip_s for visit in visits)
    rounds, rest = divmod(len(visits) - 1, room)
    slot = min(stage.forward_s, stage.backward_input_s)
    last = stage.backward_weight_s
    if goal == "makespan":
        last = max(last, min(visit.after_s for visit in visits))
    return rounds * (trip + extra) + rest * slot + trip + last
