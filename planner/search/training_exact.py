"""Exact search of the training space on one node group in one precision: bounds first, prices last.

Points in ascending order of a bound become rows, rows that no sharding can make faster than the
incumbent or make fit are dropped, and the rest become plans that are priced in ascending order of the rows'
own bound. Nothing is dropped that could beat the incumbent, so the answer is that of full enumeration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import Gradients
from planner.search.training_question import Limits, Rates
from planner.space.training.bound import point_bound
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, rows, sharded
from planner.space.training.plans import GRADIENTS, PlanArrays, concatenate, leanest_offload
from planner.space.training.point_grid import PointGrid
from planner.space.training.recompute_fit import fitted

_FIRST_POINTS = 64
_MOST_POINTS = 1000
_MOST_ROWS_PRICED = 250


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Plans that were priced and keep all limits, best first, with their value, step time and peak memory."""

    plans: PlanArrays
    value: FloatArray
    step_s: FloatArray
    peak_bytes: FloatArray


@dataclass(slots=True, kw_only=True)
class Effort:
    """What a search did, and the extremes that it met: for saying why there is no plan.

    `least_bytes` is the least memory of any row that was looked at, `least_step_s` the shortest step of a
    plan that fits.
    """

    points: int = 0
    points_expanded: int = 0
    rows: int = 0
    plans_priced: int = 0
    least_bytes: float = np.inf
    least_step_s: float = np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactOutcome:
    """The answer; `bound` is a proven lower bound on the value of any plan of the space."""

    kept: Priced | None
    bound: float
    effort: Effort
    interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Rows that may still win, with a lower bound on their value."""

    plans: PlanArrays
    bound: FloatArray


class ExactSearch:
    """One search over one node group and one number format."""

    def __init__(
        self,
        evaluator: TrainingEvaluator,
        space: Space,
        rates: Rates,
        limits: Limits,
        num_keep: int,
        stop: Callable[[], bool],
    ) -> None:
        self._evaluator = evaluator
        self._space = space
        self._rates = rates
        self._limits = limits
        self._num_keep = num_keep
        self._stop = stop
        self._kept: Priced | None = None
        self.effort = Effort()

    def run(self, points: PointGrid, fmt: str, incumbent: float = np.inf) -> ExactOutcome:
        """Search all points; `incumbent` is the value of an answer already known (which is not returned)."""
        self.effort.points += len(points)
        bounds = np.concatenate([np.zeros(0), *(self._point_bounds(p, fmt) for p in points.batches())])
        order = np.argsort(bounds, kind="stable")
        done, best, interrupted = 0, incumbent, False
        while done < len(order) and bounds[order[done]] <= best and not interrupted:
            take = _FIRST_POINTS if done == 0 else _MOST_POINTS
            chosen = order[done : done + take]
            done += take
            self.effort.points_expanded += len(chosen)
            live = self._live_rows(points.take(chosen[bounds[chosen] <= best]), fmt, best)
            best = self._price(live, fmt, best)
            interrupted = self._stop()
        rest = float(bounds[order[done]]) if done < len(order) else np.inf
        return ExactOutcome(
            kept=self._kept,
            bound=min(best, rest) if interrupted else best,
            effort=self.effort,
            interrupted=interrupted and rest < best,
        )

    def _point_bounds(self, points: PlanArrays, fmt: str) -> FloatArray:
        bound = point_bound(self._evaluator, self._space, points, fmt)
        devices = _num_devices(points)
        allowed = (devices <= self._limits.num_devices) & (bound.step_s <= self._limits.longest_step_s)
        return np.where(allowed, self._rates.value(bound.step_s, bound.compute_s, devices), np.inf)

    def _live_rows(self, points: PlanArrays, fmt: str, best: float) -> _Rows:
        """Return the rows that keep the limits under the leanest sharding and may beat `best`, best first."""
        found = rows(self._space, points)
        self.effort.rows += len(found)
        choices = self._space.choices
        leanest = replace(
            found,
            zero=np.full_like(found.zero, max(self._space.fixed("zero", list(choices.zeros)), default=0)),
            offload=np.full_like(
                found.offload,
                leanest_offload(self._space.word("offload", choices.offloads)),
            ),
            gradients=np.full_like(found.gradients, GRADIENTS.index(lean_gradients(self._space))),
        )
        leanest = fitted(self._evaluator, leanest, fmt, self._limits.capacity_bytes, lean=True)
        outline = self._evaluator.outline(leanest, fmt)
        fits = outline.least_bytes <= self._limits.capacity_bytes
        if len(found):
            self.effort.least_bytes = min(self.effort.least_bytes, float(outline.least_bytes.min()))
        fast = outline.step_s <= self._limits.longest_step_s
        value = self._rates.value(outline.step_s, outline.compute_s, _num_devices(found))
        live = np.flatnonzero(fits & fast & (value <= best))
        live = live[np.argsort(value[live], kind="stable")]
        return _Rows(plans=found.take(live), bound=value[live])

    def _price(self, live: _Rows, fmt: str, best: float) -> float:
        """Price the plans of the rows until none can beat the best; return its value."""
        done = 0
        while done < len(live.plans) and live.bound[done] <= best:
            part = live.plans.take(np.arange(done, min(done + _MOST_ROWS_PRICED, len(live.plans))))
            done += len(part)
            plans = sharded(self._space, part)
            if len(plans) == 0:
                continue
            self.effort.plans_priced += len(plans)
            plans = fitted(self._evaluator, plans, fmt, self._limits.capacity_bytes)
            found = self._evaluator.evaluate(plans, fmt)
            step_s = found.time.total_s
            fits = found.peak_bytes <= self._limits.capacity_bytes
            if fits.any():
                self.effort.least_step_s = min(self.effort.least_step_s, float(step_s[fits].min()))
            value = self._rates.value(step_s, found.time.compute_s, _num_devices(plans))
            value = np.where(fits & (step_s <= self._limits.longest_step_s), value, np.inf)
            self._keep(plans, value, step_s, found.peak_bytes)
            if self._kept is not None:
                best = min(best, float(self._kept.value[0]))
        return best

    def _keep(self, plans: PlanArrays, value: FloatArray, step_s: FloatArray, peak: FloatArray) -> None:
        """Merge the best of `plans` into what is kept; of equal ones the simpler stays in front."""
        feasible = np.flatnonzero(np.isfinite(value))
        if len(feasible) == 0:
            return
        first = feasible[np.argsort(value[feasible], kind="stable")[: self._num_keep]]
        fresh = Priced(
            plans=plans.take(first), value=value[first], step_s=step_s[first], peak_bytes=peak[first]
        )
        if self._kept is None:
            self._kept = fresh
            return
        both = concatenate([self._kept.plans, fresh.plans])
        merged = [
            np.concatenate([getattr(self._kept, name), getattr(fresh, name)])
            for name in ("value", "step_s", "peak_bytes")
        ]
        order = np.argsort(merged[0], kind="stable")[: self._num_keep]
        self._kept = Priced(
            plans=both.take(order),
            value=merged[0][order],
            step_s=merged[1][order],
            peak_bytes=merged[2][order],
        )


def lean_gradients(space: Space) -> Gradients:
    """Return the format of gradients that takes the least memory of those allowed."""
    return "bf16" if "bf16" in space.word("gradients", space.choices.gradients) else "full"


def _num_devices(plans: PlanArrays) -> FloatArray:
    return np.asarray(plans.tp * plans.pp * plans.dp * plans.cp, dtype=np.float64)
