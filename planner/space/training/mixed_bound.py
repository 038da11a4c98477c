"""Lower bounds on pipelines over several node groups, whatever the cut of their layers."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from planner.ir.training import Recompute
from planner.space.training.chain_stages import ChainGroup
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.memory import StageLoad, stage_memory
from planner.space.training.mixed import MixedPoints
from planner.space.training.plans import IntArray, PlanArrays
from planner.space.training.tables import PlanTable

_TIMES = ("forward_s", "backward_s", "weight_grad_s", "forward_comm_s", "backward_comm_s")
_HALVINGS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedBound:
    """Of every point: lower bounds on step and pace, and the shortest layer of any group, seconds."""

    step_s: FloatArray
    layer_s: FloatArray
    pace_s: FloatArray

    def take(self, index: IntArray) -> MixedBound:
        """Return the bounds of the points at `index`."""
        return MixedBound(step_s=self.step_s[index], layer_s=self.layer_s[index], pace_s=self.pace_s[index])


def mixed_bound(
    evaluators: tuple[TrainingEvaluator, ...], points: MixedPoints, fmt: str, ways: tuple[Recompute, ...]
) -> MixedBound:
    """Return bounds from work alone: layers spread over all stages in any shares, each where it is fastest.

    A stage whose pace is x holds at most x / a of the work, where a is the least time of its group per
    unit of work over all kinds of layers. `ways` of recomputing are allowed.
    """
    order = np.array(evaluators[0].tables.folded.order)
    counts = np.bincount(order)
    times: list[FloatArray] = []
    heads: list[FloatArray] = []
    for evaluator, plans in zip(evaluators, points.plans, strict=True):
        table = evaluator.plan_table(plans, fmt)
        times.append(_layer_s(table) + np.min([_extra_s(table, way) for way in ways], axis=0))
        heads.append(table.end("head_forward_s") + table.end("head_backward_s"))
    plans = points.plans[0]
    pace = np.maximum(_pace(counts, times, heads, points), _whole_layers(counts, times, points))
    through = counts @ np.min(times, axis=0) + np.min(heads, axis=0)
    num_micro = evaluators[0].workload.global_batch / (plans.dp * plans.micro_batch)
    step = (num_micro - 1.0) * pace + through + evaluators[0].software.per_step_s
    once = np.min([_once(e, p, points, fmt) for e, p in zip(evaluators, points.plans, strict=True)], axis=0)
    return MixedBound(
        step_s=np.asarray(step + once, dtype=np.float64),
        layer_s=np.asarray(np.min(times, axis=(0, 1)), dtype=np.float64),
        pace_s=pace,
    )


def _pace(
    counts: IntArray, times: list[FloatArray], heads: list[FloatArray], points: MixedPoints
) -> FloatArray:
    """Return the least pace if layers could be cut into any parts, with and without the head."""
    unit, head = times[0], heads[0]
    room, room_with_head = np.zeros(len(points)), np.zeros(len(points))
    for time, own, most in zip(times, heads, points.most_stages, strict=True):
        slowness = (time / unit).min(axis=0)
        room += most / slowness
        room_with_head += most / np.minimum(slowness, own / head)
    return np.maximum(counts @ unit / room, (counts @ unit + head) / room_with_head)


def _whole_layers(counts: IntArray, times: list[FloatArray], points: MixedPoints) -> FloatArray:
    """Return the least pace at which all stages together hold all layers, whole ones of the shortest kind."""
    num_layers = int(counts.sum())
    shortest = [time.min(axis=0) for time in times]

    def held(pace: FloatArray) -> FloatArray:
        parts = zip(shortest, points.most_stages, strict=True)
        return np.asarray(sum(most * np.floor(pace / own * (1 + 1e-9)) for own, most in parts))

    found = np.full(len(points), np.inf)
    for own in shortest:
        low, high = np.ones(len(points)), np.full(len(points), float(num_layers))
        for _ in range(num_layers.bit_length() + 1):
            middle = np.floor((low + high) / 2.0)
            enough = held(middle * own) >= num_layers
            low, high = np.where(enough, low, middle + 1.0), np.where(enough, middle, high)
        found = np.minimum(found, high * own)
    return found


def _once(evaluator: TrainingEvaluator, plans: PlanArrays, points: MixedPoints, fmt: str) -> FloatArray:
    """Return the least that the fullest stage does once per step: an even share, behind the whole model."""
    totals = evaluator.work_of_all_layers(plans, fmt)
    table = evaluator.plan_table(plans, fmt)
    stages = np.asarray(sum(points.most_stages), dtype=np.float64)
    counts = np.bincount(np.array(evaluator.tables.folded.order))
    dense, expert = (counts @ table.layer(name) / stages for name in ("dense_params", "expert_params"))
    forward = totals.forward + totals.comm
    backward = totals.backward + totals.weight_grad + totals.full + totals.comm
    held = (dense, expert)
    layers = np.ceil(counts.sum() / stages)
    once, each = evaluator.exposed.data_parallel_s(plans, (forward, backward), held, layers)
    num_micro = evaluator.workload.global_batch / (plans.dp * plans.micro_batch)
    return np.asarray(once + each * num_micro, dtype=np.float64)


def with_memory(
    groups: tuple[ChainGroup, ...],
    points: MixedPoints,
    bound: MixedBound,
    allowed: tuple[str, tuple[Recompute, ...]],
    cut_s: float,
) -> FloatArray:
    """Return bounds on the step that know memory, infinite where it cannot be below `cut_s`.

    `allowed` are the precision and the ways of recomputing.

    A stage k from the end keeps k micro-batches. At pace x it holds as many layers as time and memory allow,
    of which a share is recomputed; all stages together must hold all layers, each group at the places
    nearest to the end.
    """
    fmt, ways = allowed
    rooms = [
        _Room(group, plans, most, fmt)
        for group, plans, most in zip(groups, points.plans, points.most_stages, strict=True)
    ]
    evaluator, plans = groups[0].evaluator, points.plans[0]
    num_layers = len(evaluator.tables.folded.order)
    others = np.maximum(evaluator.workload.global_batch / (plans.dp * plans.micro_batch) - 1.0, 0.0)
    low = bound.pace_s.copy()
    high = np.where(others > 0, low + np.maximum(cut_s - bound.step_s, 0.0) / np.maximum(others, 1.0), np.inf)

    def enough(pace: FloatArray) -> NDArray[np.bool_]:
        held = sum((room.layers(pace, others + 1.0, ways) for room in rooms), np.zeros_like(pace))
        return np.asarray(held >= num_layers)

    never = ~enough(high)
    top = np.where(np.isfinite(high), high, low)
    for _ in range(_HALVINGS):
        middle = (low + top) / 2.0
        fits = enough(middle)
        low, top = np.where(fits, low, middle), np.where(fits, middle, top)
    return np.where(never, np.inf, bound.step_s + others * (low - bound.pace_s))


class _Room:
    """What a stage of one group takes per layer at least, seconds and bytes, each [points]."""

    def __init__(self, group: ChainGroup, plans: PlanArrays, most: IntArray, fmt: str) -> None:
        evaluator = group.evaluator
        table = evaluator.plan_table(plans, fmt)
        self._most = most
        self._slack = 1.0 + evaluator.software.allocator_slack
        self._time = _layer_s(table).min(axis=0)
        self._extra: dict[Recompute, FloatArray] = {
            way: _extra_s(table, way).min(axis=0) for way in ("none", "selective", "full")
        }
        self._kept: dict[Recompute, FloatArray] = {
            way: table.layer(f"kept_{way}_bytes").min(axis=0) for way in ("none", "selective", "full")
        }
        zero = np.zeros_like(table.layer("dense_params"))
        values = {f.name: zero for f in fields(StageLoad)}
        values |= {name: table.layer(name) for name in ("dense_params", "expert_params")}
        shards = evaluator.shards(plans)
        held = stage_memory(plans, StageLoad(**values), zero, shards, evaluator.software)
        self._states = (held.weights + held.gradients + held.optimizer).min(axis=0)
        working = table.layer("working_bytes").min(axis=0) * self._slack
        self._room = group.capacity_bytes - held.reserved.min(axis=0) - working

    def layers(self, pace: FloatArray, num_micro: FloatArray, ways: tuple[Recompute, ...]) -> FloatArray:
        """Return the most layers that all stages of the group hold at a pace."""
        total = np.zeros_like(pace)
        for depth in range(1, int(self._most.max(initial=0)) + 1):
            held = np.minimum(float(depth), num_micro) * self._slack
            most = np.max([self._of_stage(pace, held, way, ways) for way in ways], axis=0)
            total += np.where(depth <= self._most, np.floor(np.maximum(most, 0.0) + 1e-9), 0.0)
        return total

    def _of_stage(
        self, pace: FloatArray, held: FloatArray, way: Recompute, ways: tuple[Recompute, ...]
    ) -> FloatArray:
        """Return the most layers of one stage by time and by memory, the share recomputed chosen best."""
        if way != "full" or "none" not in ways:
            by_time = pace / (self._time + self._extra[way])
            return np.minimum(by_time, self._room / (self._states + held * self._kept[way]))
        whole = self._states + held * self._kept["none"]
        saved = held * (self._kept["none"] - self._kept["full"])
        bounded = np.where(np.isfinite(pace), pace, 1e30)
        share = (bounded * whole - self._room * self._time) / np.maximum(
            self._room * self._extra["full"] + bounded * saved, 1e-30
        )
        share = np.clip(share, 0.0, 1.0)
        by_time = bounded / (self._time + share * self._extra["full"])
        return np.minimum(by_time, self._room / (whole - share * saved))


def _layer_s(table: PlanTable) -> FloatArray:
    return np.asarray(sum(table.layer(name) for name in _TIMES), dtype=np.float64)


def _extra_s(table: PlanTable, way: Recompute) -> FloatArray:
    """Return what recomputing one layer of every kind adds, seconds."""
    return table.layer(f"recompute_{way}_s") if way != "none" else 0.0 * table.layer("forward_s")
