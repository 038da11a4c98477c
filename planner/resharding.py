"""What it costs to go on with a run under another plan: states that nodes need and do not hold yet.

The state that moves is the optimizer's (master weights and moments): 16-bit weights are gathered from it
anyway. A rank holds, of the layers of its stages, the part of its tensor rank and of its share among the
ranks that states are sharded over; experts lie over ep x etp ranks of a stage. Every node takes what it lacks
over its own network link, all nodes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from cost_models.cost import FloatArray
from cost_models.operations.resharding import missing_volume, through_storage_s
from hardware_profiles.loader import load_trainer
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import Experts, Linear, ModelGraph, Op, Small
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.plan.schema import Plan, Pool, TrainingSettings
from planner.verify import problem_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Resharding:
    """Bytes of the state, bytes that nodes receive (all, and the busiest), and the time of it, seconds.

    `through_storage_s` is the time of writing a checkpoint and reading it back, None without storage.
    """

    state_bytes: float
    total_bytes: float
    busiest_node: str
    busiest_node_bytes: float
    time_s: float
    through_storage_s: float | None


def reshard(
    before: Plan,
    after: Plan,
    *,
    storage_bytes_per_s: float | None = None,
    node_bytes_per_s: float | None = None,
) -> Resharding:
    """Return the cost of going on with the states of `before` under `after`.

    Raises
    ------
    InputError
        If one of them is no training plan with a job, or they train different models.
    """
    old, new = _problem(before), _problem(after)
    model = new.payload.model
    if old.payload.model != model:
        raise InputError(
            "the plans train different models", key="model", value=model.name, allowed=old.payload.model.name
        )
    total_bytes, busiest, busiest_bytes, time_s = 0.0, "", 0.0, 0.0
    links = _links(new, after, node_bytes_per_s)
    missing = dict.fromkeys(sorted(links), 0.0)
    state_bytes = 0.0
    for experts in (False, True):
        offsets = _offsets(model, experts=experts)
        part_bytes = float(offsets[-1]) * load_trainer(after.pools[0].engine).optimizer_bytes.value
        if not part_bytes:
            continue
        state_bytes += part_bytes
        held = _boxes(before, offsets / offsets[-1], experts=experts)
        wanted = _boxes(after, offsets / offsets[-1], experts=experts)
        for node, boxes in wanted.items():
            missing[node] += missing_volume(held.get(node), boxes) * part_bytes
    for node, num_bytes in missing.items():
        total_bytes += num_bytes
        time_s = max(time_s, num_bytes / links[node])
        if num_bytes > busiest_bytes:
            busiest, busiest_bytes = node, num_bytes
    stored = None
    if storage_bytes_per_s is not None:
        stored = through_storage_s(state_bytes, storage_bytes_per_s, storage_bytes_per_s)
    return Resharding(
        state_bytes=state_bytes,
        total_bytes=total_bytes,
        busiest_node=busiest,
        busiest_node_bytes=busiest_bytes,
        time_s=time_s,
        through_storage_s=stored,
    )


def _problem(plan: Plan) -> Problem[TrainingProblem]:
    if plan.kind != "training" or not plan.pools or any(pool.training is None for pool in plan.pools):
        raise InputError("this plan has no training job", key="kind", value=plan.kind, allowed="training")
    return cast("Problem[TrainingProblem]", problem_of(plan))


def _links(problem: Problem[TrainingProblem], plan: Plan, node_bytes_per_s: float | None) -> dict[str, float]:
    """Return what each node of a plan can receive, bytes per second."""
    groups = {group.name: group for group in problem.cluster.groups}
    found: dict[str, float] = {}
    for pool in plan.pools:
        group = groups.get(pool.node_group)
        if group is None:
            raise InputError(
                "the job stands on no group of the cluster", key="node_group", value=pool.node_group
            )
        for node, _ in _ranks(plan, pool):
            found[node] = node_bytes_per_s or _node_bytes_per_s(group)
    return found


def _node_bytes_per_s(group: NodeGroup) -> float:
    """Return the bandwidth of a node's network: all its devices receive at once."""
    link = group.levels[-1].link
    return link.bandwidth_bytes_per_s / link.oversubscription * group.devices_per_node


def _offsets(model: ModelGraph, *, experts: bool) -> FloatArray:
    """Return the parameters before each layer: embedding, layers, head; of experts, or of all else."""

    def count(ops: tuple[Op, ...]) -> int:
        kinds = (Experts,) if experts else (Linear, Small)
        tied = [op for op in ops if isinstance(op, Linear) and op.tied]
        return sum(op.num_params for op in ops if isinstance(op, kinds) and op not in tied)

    parts = [count(model.embedding), *(count(layer.ops) for layer in model.layers), count(model.head)]
    return np.concatenate([[0.0], np.cumsum(np.array(parts, dtype=np.float64))])


def _ranks(plan: Plan, pool: Pool) -> Iterator[tuple[str, int]]:
    """Yield (node, rank) of a pool."""
    for seat in plan.placement:
        if seat.pool == pool.name:
            for rank, device in enumerate(seat.devices):
                yield device.rpartition("/")[0], rank


def _boxes(plan: Plan, offsets: FloatArray, *, experts: bool) -> dict[str, FloatArray]:
    """Return, by node, the boxes (low, high in layers, tensor, share) that its ranks hold, [boxes, 6]."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for pool in plan.pools:
        settings, stages = pool.training, dict[int, list[tuple[float, float]]]()
        if settings is None:
            continue
        for stage, low, high in _stretches(pool, settings, len(offsets) - 3):
            stages.setdefault(stage, []).append((float(offsets[low]), float(offsets[high])))
        per_stage = pool.strategy.tp * pool.strategy.cp * pool.strategy.dp
        for node, rank in _ranks(plan, pool):
            tensor, share = _place(pool, settings, rank % per_stage, experts=experts)
            for low, high in stages.get(rank // per_stage, []):
                if high > low:
                    found.setdefault(node, []).append((low, tensor[0], share[0], high, tensor[1], share[1]))
    return {node: np.unique(np.array(boxes), axis=0) for node, boxes in found.items()}


def _stretches(pool: Pool, settings: TrainingSettings, num_layers: int) -> Iterator[tuple[int, int, int]]:
    """Yield (stage, first, last) of every chunk's layers; 0 is the embedding, num_layers + 1 the head."""
    start = settings.first_layer
    for chunk, count in enumerate(settings.layers_per_chunk):
        lap, place = divmod(chunk, pool.strategy.pp)
        back = settings.schedule == "zb-v" and lap % 2 == 1
        low = start + 1 if start else 0
        start += count
        high = start + 1 if start < num_layers else num_layers + 2
        yield (pool.strategy.pp - 1 - place if back else place), low, high


def _place(
    pool: Pool, settings: TrainingSettings, rank: int, *, experts: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return which part of every tensor, and which share of it, a rank of a stage holds."""
    s = pool.strategy
    if experts:
        parts, ranks = s.ep * s.etp, max(s.tp * s.cp * settings.dp_shard // (s.ep * s.etp), 1)
        index, number = rank % parts, rank // parts % ranks
    else:
        parts, ranks = s.tp, settings.dp_shard * s.cp
        index, number = rank % parts, rank // parts % ranks
    share = (number / ranks, (number + 1) / ranks) if settings.zero else (0.0, 1.0)
    return (index / parts, (index + 1) / parts), share
