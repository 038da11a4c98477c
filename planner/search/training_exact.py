"""Exact search of the training space: coarse points in order of a compute-only bound, switches vectorised.

A point (degrees and micro-batch) bounds every plan made from it from below by the time of its
compute alone, spread perfectly over the stages: m * sum of layer times / pp. Points are expanded and
priced in ascending order of that bound until no remaining one can beat the incumbent, so the
answer is that of full enumeration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import TrainingChoices
from planner.space.training.enumerate import Degrees, expand
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.layer_work import Shape
from planner.space.training.plans import PlanArrays, concatenate

_FIRST_POINTS = 24
_MAX_CELLS = 3_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Feasible plans that were priced, best first, with their step time and peak memory."""

    plans: PlanArrays
    time_s: FloatArray
    peak_bytes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactOutcome:
    """Outcome of the search: `bound_s` is a proven lower bound on the step time of any plan of the space."""

    kept: Priced | None
    bound_s: float
    num_points: int
    num_points_expanded: int
    num_plans: int
    smallest_peak_bytes: float
    interrupted: bool


def compute_bound(evaluator: TrainingEvaluator, points: list[Degrees], fmt: str) -> FloatArray:
    """Return the compute-only lower bound of every point, seconds."""
    order = np.array(evaluator.tables.folded.order)
    bounds = np.empty(len(points))
    batch = evaluator.workload.global_batch
    for i, point in enumerate(points):
        table = evaluator.tables.table(_shape(evaluator, point, fmt))
        column = evaluator.batch_column(point.micro_batch)
        per_kind = [k.forward_s[column] + k.backward_s[column] + k.weight_grad_s[column] for k in table.kinds]
        layers = float(np.array(per_kind)[order].sum())
        num_micro = batch / (point.dp * point.micro_batch)
        bounds[i] = layers * num_micro / point.pp
    return bounds


def _shape(evaluator: TrainingEvaluator, point: Degrees, fmt: str) -> Shape:
    return Shape(
        seq_len=evaluator.workload.seq_len,
        tp=point.tp,
        cp=point.cp,
        ep=point.ep,
        etp=point.etp,
        sequence_parallel=point.sequence_parallel,
        fmt=fmt,
    )


class ExactSearch:
    """One search over one device kind and one number format."""

    def __init__(
        self,
        evaluator: TrainingEvaluator,
        choices: TrainingChoices,
        capacity_bytes: float,
        num_keep: int,
        stop: Callable[[], bool],
    ) -> None:
        self._evaluator = evaluator
        self._choices = choices
        self._capacity = capacity_bytes
        self._num_keep = num_keep
        self._stop = stop

    def run(self, points: list[Degrees], fmt: str, incumbent_s: float = np.inf) -> ExactOutcome:
        """Search all points; `incumbent_s` is the step time of an answer already known."""
        bounds = compute_bound(self._evaluator, points, fmt)
        order = np.argsort(bounds, kind="stable")
        kept: Priced | None = None
        best = incumbent_s
        done = num_plans = 0
        smallest = np.inf
        interrupted = False
        while done < len(order) and bounds[order[done]] < best and not interrupted:
            take = self._batch(points, order, done)
            live = [points[int(i)] for i in order[done : done + take] if bounds[int(i)] < best]
            plans = expand(live, self._evaluator.model, self._choices)
            done += take
            if len(plans) == 0:
                continue
            num_plans += len(plans)
            result = self._evaluator.evaluate(plans, fmt)
            smallest = min(smallest, float(result.peak_bytes.min()))
            time_s = np.where(result.peak_bytes <= self._capacity, result.time.total_s, np.inf)
            kept = self._merge(kept, plans, time_s, result.peak_bytes)
            if kept is not None:
                best = min(best, float(kept.time_s[0]))
            interrupted = self._stop()
        rest = float(bounds[order[done]]) if done < len(order) else np.inf
        return ExactOutcome(
            kept=kept,
            bound_s=min(best, rest) if interrupted else best,
            num_points=len(points),
            num_points_expanded=done,
            num_plans=num_plans,
            smallest_peak_bytes=smallest,
            interrupted=interrupted,
        )

    def _batch(self, points: list[Degrees], order: np.ndarray, done: int) -> int:
        """Return how many points to expand next: few at first, then as many as memory allows."""
        if done == 0:
            return min(_FIRST_POINTS, len(order))
        cells = 0
        take = 0
        for i in order[done : done + 4096]:
            cells += 100 * points[int(i)].pp
            take += 1
            if cells > _MAX_CELLS:
                break
        return take

    def _merge(
        self, kept: Priced | None, plans: PlanArrays, time_s: FloatArray, peak: FloatArray
    ) -> Priced | None:
        feasible = np.flatnonzero(np.isfinite(time_s))
        if len(feasible) == 0:
            return kept
        first = feasible[np.argsort(time_s[feasible], kind="stable")[: self._num_keep]]
        fresh = Priced(plans=plans.take(first), time_s=time_s[first], peak_bytes=peak[first])
        if kept is None:
            return fresh
        both = concatenate([kept.plans, fresh.plans])
        times = np.concatenate([kept.time_s, fresh.time_s])
        peaks = np.concatenate([kept.peak_bytes, fresh.peak_bytes])
        order = np.argsort(times, kind="stable")[: self._num_keep]
        return Priced(plans=both.take(order), time_s=times[order], peak_bytes=peaks[order])
