"""A lower bound on the step time of every plan of a point, from the work of all layers alone.

With x the time of the slowest stage for one micro-batch and S that of all stages, a step takes
m x + (S - x) / v for v chunks per device, or m x + S - x - 2 (1 - 1/p) W where a zero-bubble schedule fills
gaps with weight gradients W. Both rise with x (m >= 1), and x >= S / p: the bound puts x = S / p, takes the
most chunks that the layers allow, and recomputes nothing that may be kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import MOST_CHUNKS, Space
from planner.space.training.plans import PlanArrays

_FILLED = ("zb-h1", "zb-h2", "zb-v")
_GAPS = 3.0
"""Most weight gradients that a zero-bubble schedule moves into its gaps, in units of (1 - 1/p) W."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PointBound:
    """Lower bounds of points, each [points]: step time, and compute time of the slowest stage, seconds."""

    step_s: FloatArray
    compute_s: FloatArray


def point_bound(evaluator: TrainingEvaluator, space: Space, points: PlanArrays, fmt: str) -> PointBound:
    """Return the bounds of points, whatever pipeline, recompute, sharding and offload they run with."""
    work = evaluator.work_of_all_layers(points, fmt)
    recomputes = space.word("recompute", space.choices.recomputes)
    extra = {"none": 0.0 * work.forward, "selective": work.selective, "full": work.full}
    least = np.min([extra[name] for name in recomputes], axis=0)
    compute = work.forward + work.backward + work.weight_grad + least
    total = compute + work.comm
    pp = points.pp.astype(np.float64)
    num_micro = space.workload.global_batch / (points.dp * points.micro_batch)
    chunks = np.clip((len(space.model.layers) + 2) // points.pp, 1, MOST_CHUNKS)
    schedules = space.word("schedule", space.choices.schedules)
    others = total * (1.0 - 1.0 / pp)
    ramp = others / np.where("interleaved" in schedules, chunks, 1)
    if any(name in schedules for name in _FILLED):
        ramp = np.minimum(ramp, np.maximum(others - _GAPS * (1.0 - 1.0 / pp) * work.weight_grad, 0.0))
    return PointBound(
        step_s=np.asarray(total / pp * num_micro + ramp + evaluator.software.per_step_s, dtype=np.float64),
        compute_s=np.asarray(compute / pp * num_micro, dtype=np.float64),
    )
