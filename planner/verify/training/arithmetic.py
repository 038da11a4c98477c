"""Model FLOPs of tokens, sequences and batches: three forward passes, causal attention."""

from __future__ import annotations

from planner.ir.model_graph import AttentionCore, Experts, Linear, ModelGraph, Op
from planner.ir.training import TrainingProblem


def flops_per_token(model: ModelGraph, seq: int) -> float:
    """Return three forward passes per token: two FLOPs per weight that it meets, and causal attention."""
    ops: list[Op] = [*(op for layer in model.layers for op in layer.ops), *model.head]
    total = 0.0
    for op in ops:
        if isinstance(op, Linear):
            total += 2.0 * op.per_token * op.in_features * op.out_features
        elif isinstance(op, Experts):
            total += 2.0 * op.top_k * (3 if op.gated else 2) * op.hidden * op.inter
        elif isinstance(op, AttentionCore):
            reach = min(op.window, seq) if op.window else seq / 2.0
            total += 2.0 * op.num_heads * (op.head_dim + op.v_head_dim) * reach
    return 3.0 * total


def sequence_flops(model: ModelGraph, lengths: tuple[int, ...]) -> dict[int, float]:
    """Return the FLOPs of a sequence of every length that occurs."""
    return {length: flops_per_token(model, length) * length for length in set(lengths)}


def step_tokens(payload: TrainingProblem) -> float:
    """Return the tokens of a step, the mean where sequences differ."""
    workload = payload.workload
    if workload.batches:
        return sum(sum(batch) for batch in workload.batches) / len(workload.batches)
    return float(workload.global_batch * workload.seq_len)


def step_flops(payload: TrainingProblem) -> float:
    """Return the model FLOPs of a step, the mean where sequences differ."""
    workload, model = payload.workload, payload.model
    if not workload.batches:
        return flops_per_token(model, workload.seq_len) * step_tokens(payload)
    total = 0.0
    for batch in workload.batches:
        own = sequence_flops(model, batch)
        total += sum(own[length] for length in batch)
    return total / len(workload.batches)
