"""The space of pipelines over several node groups as columns.

A point fixes what all stages share (dp, cp, ep, etp, micro-batch, ZeRO level, offload) and the tensor
degree of every device kind. How many stages each group holds, in which order, and how layers are cut and
recomputed is left open.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from planner.space.training.grid import (
    Space,
    divisors,
    exchange_degrees,
    expert_degrees,
    gradient_formats,
    plan_columns,
    tensor_degrees,
)
from planner.space.training.plans import (
    SCHEDULES,
    IntArray,
    PlanArrays,
    concatenate,
    keeps_activations,
)

SCHEDULE = "1f1b"
"""The schedule of pipelines over several groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPoints:
    """Points as columns: `plans[g]` is each point on group g, `most_stages[g]` how many stages fit there."""

    plans: tuple[PlanArrays, ...]
    most_stages: tuple[IntArray, ...]

    def __len__(self) -> int:
        return len(self.plans[0])

    def take(self, index: IntArray) -> MixedPoints:
        """Return the points at `index`."""
        return MixedPoints(
            plans=tuple(plan.take(index) for plan in self.plans),
            most_stages=tuple(most[index] for most in self.most_stages),
        )


def mixed_points(spaces: tuple[Space, ...], kinds: tuple[str, ...]) -> MixedPoints | None:
    """Return every point; groups of one kind (`kinds[g]`) share a tensor degree. None if there is none.

    Only pipelines of at least two groups count. States are sharded over all data-parallel ranks of a stage or
    over none.
    """
    if not _allowed(spaces[0]):
        return None
    names = sorted(set(kinds))
    degrees = [
        spaces[kinds.index(name)].fixed(
            "tp", tensor_degrees(spaces[0].model, max(_sizes(spaces, kinds, name)))
        )
        for name in names
    ]
    parts: list[list[PlanArrays]] = [[] for _ in spaces]
    for tps in product(*degrees):
        own = [tps[names.index(kind)] for kind in kinds]
        for shared in _shared(spaces, own):
            for found, tp in zip(parts, own, strict=True):
                found.append(_with_tensor(shared, tp, spaces[0]))
    if not parts[0]:
        return None
    plans = tuple(concatenate(found) for found in parts)
    most = tuple(
        space.num_devices // (plan.tp * plan.cp * plan.dp) for space, plan in zip(spaces, plans, strict=True)
    )
    several = np.flatnonzero(sum(np.asarray(n > 0, dtype=np.int64) for n in most) >= 2)  # pyright: ignore[reportArgumentType] - a sum of arrays
    return MixedPoints(
        plans=tuple(plan.take(several) for plan in plans), most_stages=tuple(n[several] for n in most)
    )


def _allowed(space: Space) -> bool:
    """Return whether what is pinned leaves room for such pipelines."""
    pinned = dict(space.choices.fixed)
    one_chunk = bool(space.fixed("num_chunks", [1]))
    scheduled = SCHEDULE in space.word("schedule", space.choices.schedules)
    return one_chunk and scheduled and pinned.get("pp") != 1 and "recompute_layers" not in pinned


def _sizes(spaces: tuple[Space, ...], kinds: tuple[str, ...], name: str) -> list[int]:
    return [space.num_devices for space, kind in zip(spaces, kinds, strict=True) if kind == name]


def _with_tensor(shared: PlanArrays, tp: int, space: Space) -> PlanArrays:
    pinned = dict(space.choices.fixed).get("sequence_parallel")
    parallel = tp > 1 if pinned is None else bool(pinned) and tp > 1
    return replace(
        shared, tp=np.full_like(shared.tp, tp), sequence_parallel=np.full_like(shared.tp, int(parallel))
    )


def _shared(spaces: tuple[Space, ...], tps: list[int]) -> list[PlanArrays]:
    """Return what all stages of pipelines with these tensor degrees may share."""
    space = spaces[0]
    found: list[PlanArrays] = []
    experts = set(expert_degrees(space.model, tps[0]))
    for tp in tps[1:]:
        experts &= set(expert_degrees(space.model, tp))
    second = sorted((s.num_devices // tp for s, tp in zip(spaces, tps, strict=True)), reverse=True)[1]
    for cp in space.context_degrees():
        exchanges = set(exchange_degrees(space.model, tps[0], cp))
        for tp in tps[1:]:
            exchanges &= set(exchange_degrees(space.model, tp, cp))
        batch = space.workload.global_batch
        ranks = space.fixed("dp", [d for d in divisors(batch) if d * cp <= second])
        for dp, ulysses, (ep, etp) in product(ranks, sorted(exchanges), sorted(experts)):
            pinned = space.fixed("cp_ulysses", [ulysses]) and space.fixed("ep", [ep])
            spread = all((dp * cp * tp) % (ep * etp) == 0 for tp in tps)
            if batch % dp == 0 and dp * cp <= second and pinned and space.fixed("etp", [etp]) and spread:
                found.append(_columns(space, (cp, dp, ulysses, ep, etp)))
    return [columns for columns in found if len(columns)]


def _columns(space: Space, degrees: tuple[int, int, int, int, int]) -> PlanArrays:
    """Return every micro-batch, ZeRO level and offload of one set of degrees."""
    cp, dp, ulysses, ep, etp = degrees
    pinned = "micro_batch" in dict(space.choices.fixed)
    sizes = [
        b for b in divisors(space.workload.global_batch // dp) if pinned or b <= space.choices.max_micro_batch
    ]
    zeros = [z for z in space.fixed("zero", list(space.choices.zeros)) if z == 0 or dp * cp > 1]
    zeros = zeros if space.fixed("dp_shard", [dp]) else [z for z in zeros if z == 0]
    offloads = keeps_activations(space.word("offload", space.choices.offloads))
    rows = [
        (size, zero, offload, gradients)
        for size, zero, offload in product(space.fixed("micro_batch", sizes), zeros, offloads)
        for gradients in gradient_formats(space, (dp, dp, cp), zero)
    ]
    table = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
    return plan_columns(
        len(table),
        tp=1,
        cp=cp,
        dp=dp,
        cp_ulysses=ulysses,
        ep=ep,
        etp=etp,
        pp=2,
        dp_shard=dp,
        schedule=SCHEDULES.index(SCHEDULE),
        micro_batch=table[:, 0],
        zero=table[:, 1],
        offload=table[:, 2],
        gradients=table[:, 3],
    )
