"""How many layers of each chunk must be recomputed for a plan to fit, in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.training import Recompute
from planner.space.training.evaluate import TrainingEvaluator, same_split
from planner.space.training.memory import in_flight, stage_memory
from planner.space.training.plans import FITTED, RECOMPUTES, IntArray, PlanArrays, away
from planner.space.training.tables import PlanTable


def fitted(
    evaluator: TrainingEvaluator, plans: PlanArrays, fmt: str, capacity_bytes: float, *, lean: bool = False
) -> PlanArrays:
    """Return plans whose FITTED recomputation is the least that fits: none, some layers, or all.

    With `lean`, buffers that come with sharding do not count.
    """
    undecided = np.flatnonzero(plans.recompute_layers == FITTED)
    if not len(undecided):
        return plans
    part = plans.take(undecided)
    layers = np.zeros(len(part), dtype=np.int64)
    table = evaluator.plan_table(part, fmt)
    for index in same_split(part):
        fit = _Fit(evaluator, part.take(index), table.take(index), capacity_bytes, lean=lean)
        layers[index] = fit.least_layers()
    recompute, chosen = plans.recompute.copy(), plans.recompute_layers.copy()
    recompute[undecided] = np.where(layers == 0, 0, RECOMPUTES.index("full"))
    chosen[undecided] = np.where(layers < 0, 0, layers)
    return replace(plans, recompute=recompute, recompute_layers=chosen)


class _Fit:
    """Plans that share one split of the layers."""

    def __init__(
        self,
        evaluator: TrainingEvaluator,
        plans: PlanArrays,
        table: PlanTable,
        capacity_bytes: float,
        *,
        lean: bool,
    ) -> None:
        self._evaluator = evaluator
        self._plans = plans
        self._table = table
        self._capacity_bytes = capacity_bytes
        self._lean = lean

    def least_layers(self) -> IntArray:
        """Return how many layers of each chunk must be recomputed, -1 for all of them."""
        evaluator, plans, table = self._evaluator, self._plans, self._table
        classes = evaluator.classes_of(plans, every=False)
        if classes is None:
            return np.zeros(len(plans), dtype=np.int64)
        held = in_flight(plans, evaluator.num_micro_of(plans), classes.first, classes.num_stages)
        fits = (self._over("none", held) <= 0.0).all(axis=0)
        slack = 1.0 + evaluator.software.allocator_slack
        by_layer = table.layer("kept_none_bytes") - table.layer("kept_full_bytes")
        saved = np.einsum("rsk,kp->rsp", classes.again[1:], by_layer) * held[None] * slack
        enough = (saved >= self._over("full", held)[None] * (1 - 1e-12)).all(axis=1)
        first = enough.argmax(axis=0) + 1
        # Activations on the host leave nothing to save but what a whole layer rebuilds.
        some = enough.any(axis=0) & (first < len(classes.again) - 1) & ~away(plans, "activations")
        return np.where(fits, 0, np.where(some, first, -1)).astype(np.int64)

    def _over(self, way: Recompute, held: FloatArray) -> FloatArray:
        """Return by how much stages exceed the memory if they keep all and rebuild layers as `way` does."""
        evaluator, plans = self._evaluator, self._plans
        classes = evaluator.classes_of(plans, every=False)
        assert classes is not None
        none = np.zeros_like(plans.recompute)
        every = replace(plans, recompute=none, recompute_layers=none)
        load = evaluator.load_of(self._table, classes, every)
        if way != "none":
            index = np.full_like(none, RECOMPUTES.index(way))
            again = evaluator.load_of(self._table, classes, replace(every, recompute=index))
            load = replace(again, kept_bytes=load.kept_bytes)
        software = evaluator.software
        found = stage_memory(plans, load, held, evaluator.shards(plans), software)
        buffers = found.gathered * (1.0 + software.allocator_slack) if self._lean else 0.0
        return found.total - self._capacity_bytes - buffers
