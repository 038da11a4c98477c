"""Lower bounds on the step of a node group that runs some of the sequences, for every number of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cost_models.cost import FloatArray
from planner.space.training.bound import point_bound
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, exchange_degrees, expert_degrees, plan_columns, tensor_degrees
from planner.space.training.plans import PlanArrays, concatenate
from planner.space.training.source import with_batch


def micro_batches(space: Space) -> list[int]:
    """Return every micro-batch that some share of the batch may be run in."""
    most = min(space.choices.max_micro_batch, space.workload.global_batch)
    pinned = dict(space.choices.fixed).get("micro_batch")
    return list(range(1, most + 1)) if pinned is None else [int(pinned)]


def share_floor(evaluator: TrainingEvaluator, space: Space, fmt: str) -> FloatArray:
    """Return a bound on the step for every number of sequences from 0 (infinite) to the whole batch.

    A point with as many data-parallel ranks as fit takes max(1, b / (dp micro-batch)) micro-batches for b
    sequences; fewer ranks take more of them.
    """
    batch = space.workload.global_batch
    found = np.full(batch + 1, np.inf)
    points = _relaxed(space)
    if points is None:
        return found
    start, whole = (
        point_bound(with_batch(evaluator, b), _of_batch(space, b), points, fmt).step_s for b in (0, batch)
    )
    slope, taken = (whole - start) / batch, points.dp * points.micro_batch
    shares = np.arange(batch + 1)
    for value in np.unique(taken):
        at = np.flatnonzero(taken == value)
        at = at[np.argsort(start[at], kind="stable")]
        steeper = np.minimum.accumulate(slope[at])
        lines = at[np.r_[True, steeper[1:] < steeper[:-1]]]
        each = slope[lines, None] * np.maximum(shares, value)[None, :] + start[lines, None]
        found = np.minimum(found, each.min(axis=0))
    found[0] = np.inf
    return found


def _of_batch(space: Space, global_batch: int) -> Space:
    return replace(space, workload=replace(space.workload, global_batch=global_batch))


def _relaxed(space: Space) -> PlanArrays | None:
    """Return every point with as many data-parallel ranks as fit, None if there is none."""
    parts: list[PlanArrays] = []
    sizes = micro_batches(space)
    pinned = dict(space.choices.fixed)
    for tp in space.fixed("tp", tensor_degrees(space.model, space.num_devices)):
        split = pinned.get("sequence_parallel")
        parallel = int(tp > 1 if split is None else bool(split) and tp > 1)
        for cp in space.context_degrees():
            most = min(len(space.model.layers), space.num_devices // (tp * cp))
            rows = [
                (pp, min(int(pinned.get("dp", 1 << 30)), space.num_devices // (tp * cp * pp)), size)
                for pp in space.fixed("pp", list(range(1, most + 1)))
                for size in sizes
            ]
            table = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
            for ep, etp in expert_degrees(space.model, tp):
                for ulysses in space.fixed("cp_ulysses", exchange_degrees(space.model, tp, cp)):
                    if len(table) and space.fixed("ep", [ep]) and space.fixed("etp", [etp]):
                        parts.append(
                            plan_columns(
                                len(table),
                                tp=tp,
                                cp=cp,
                                cp_ulysses=ulysses,
                                ep=ep,
                                etp=etp,
                                sequence_parallel=parallel,
                                pp=table[:, 0],
                                dp=table[:, 1],
                                micro_batch=table[:, 2],
                            )
                        )
    return concatenate(parts) if parts else None
