"""Parameters and arithmetic of the stages of a training job, counted operator by operator.

Vocabulary padding and rounding up to whole rows are left out, so that counts agree with a plan's to about
two percent.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, Op, Small
from planner.verify.training.view import JobView


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCount:
    """What one rank of a stage holds and does for one micro-batch.

    `dense` and `expert` are parameters, `forward_flops` the arithmetic of one forward pass,
    `input_elements` the elements of the inputs of its matrix products (kept for weight gradients),
    `boundary_elements` those of the inputs of its layers, `kept_elements` the least that its choice of
    recomputation keeps.
    """

    dense: float
    expert: float
    forward_flops: float
    input_elements: float
    boundary_elements: float
    kept_elements: float


def _shared(op: Linear | Small, tp: int) -> float:
    """Return by how many tensor ranks an operator's parameters are divided."""
    if op.shard == "replicated":
        return 1.0
    if op.shard == "kv_column":
        return float(min(tp, max(op.num_units, 1)))
    return float(tp)


def _weights(op: Op, job: JobView) -> tuple[float, float]:
    """Return (dense, expert) parameters of an operator on one rank."""
    s = job.strategy
    if isinstance(op, Experts):
        return 0.0, op.num_params / (s.ep * s.etp)
    if isinstance(op, Linear | Small):
        return op.num_params / _shared(op, s.tp), 0.0
    return 0.0, 0.0


def _flops(op: Op, job: JobView) -> float:
    """Return the FLOPs of one forward pass of a micro-batch on one rank; recurrent mixers count nothing."""
    tp, seq = job.strategy.tp, job.settings.seq_len
    if isinstance(op, Linear):
        return 2.0 * job.tokens * op.per_token * op.in_features * op.out_features / _shared(op, tp)
    if isinstance(op, Experts):
        maps = 3 if op.gated else 2
        return 2.0 * job.tokens / tp * op.top_k * maps * op.hidden * op.inter
    if isinstance(op, AttentionCore):
        reach = min(op.window, seq) if op.window else seq / 2.0
        return 2.0 * job.tokens * op.num_heads / tp * (op.head_dim + op.v_head_dim) * reach
    return 0.0


def _inputs(ops: tuple[Op, ...], job: JobView) -> float:
    """Return the elements of the inputs of a layer's matrix products on one rank, shared inputs once."""
    split = job.strategy.tp if job.settings.sequence_parallel else 1
    total, seen = 0.0, set[str]()
    for op in ops:
        if isinstance(op, Experts):
            total += job.tokens / job.strategy.tp * op.top_k * op.hidden
        if not isinstance(op, Linear) or op.per_token <= 0 or op.shard == "replicated":
            continue
        if op.shard == "row":
            total += job.tokens * op.per_token * op.in_features / job.strategy.tp
        elif op.slot not in seen:
            seen.add(op.slot)
            total += job.tokens * op.per_token * op.in_features / split
    return total


def stage_counts(job: JobView) -> list[StageCount]:
    """Return the counts of every stage; the embedding is on the first, the head where the last chunk is."""
    model = job.problem.payload.model
    found: list[StageCount] = []
    split = job.strategy.tp if job.settings.sequence_parallel else 1
    for stage, layers in enumerate(job.stage_layers()):
        ops: list[Op] = [op for layer in layers for op in layer.ops]
        held = list(ops)
        first = job.settings.first_stage == 0 and stage == 0
        held += list(model.embedding) if first else []
        alone = not first
        if stage == job.head_stage:
            held += [op for op in model.head if alone or not (isinstance(op, Linear) and op.tied)]
            ops += list(model.head)
        weights = [_weights(op, job) for op in held]
        found.append(
            StageCount(
                dense=sum(dense for dense, _ in weights),
                expert=sum(expert for _, expert in weights),
                forward_flops=sum(_flops(op, job) for op in ops),
                input_elements=sum(_inputs(layer.ops, job) for layer in layers),
                boundary_elements=len(layers) * job.tokens * model.hidden_size / split,
                kept_elements=_kept(job, stage, layers),
            )
        )
    return found


def _kept(job: JobView, stage: int, layers: list[Layer]) -> float:
    """Return the least elements that a stage keeps: inputs of recomputed layers, of the products of others.

    The first layers of every chunk are recomputed; attention that runs again keeps no more than inputs of
    layers.
    """
    split = job.strategy.tp if job.settings.sequence_parallel else 1
    boundary = job.tokens * job.problem.payload.model.hidden_size / split
    way, count = job.recomputed(stage)
    if way == "selective" or (way == "full" and not count):
        return boundary * len(layers)
    again = job.first_layers(stage, count if way == "full" else 0)
    return sum(
        boundary if i in again else max(_inputs(layer.ops, job), boundary) for i, layer in enumerate(layers)
    )
