"""What a row measured, as the time of a step: throughputs and utilisations are turned back into seconds."""

from __future__ import annotations

from dataclasses import dataclass

from planner.accuracy.training.rows import RowError, TrainingRow
from planner.ir.model_graph import ModelGraph

MEMORY_METRICS = {
    "memory_activations_gib": 2.0**30,
    "memory_params_optimizer_gib": 2.0**30,
    "peak_memory_allocated_gb": 2.0**30,
    "peak_memory_gb": 2.0**30,
    "peak_memory_gib": 2.0**30,
}
PARTIAL_MEMORY = frozenset({"memory_activations_gib", "memory_params_optimizer_gib"})
"""Parts of the memory of a plan, which need not have run."""
LAYER_METRIC = "layer_fwd_plus_bwd_ms"
FEASIBLE_METRIC = "feasible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Size of a step: tokens, model FLOPs of a trained token, and peak of one device."""

    global_batch: int
    seq_len: int
    flops_per_token: float
    peak_flops_per_s: float


def model_flops_per_token(model: ModelGraph, seq_len: int, *, causal: bool = False) -> float:
    """Return model FLOPs per trained token, forward and backward, without recompute.

    6 per parameter of a matrix that the token passes, the head included, and 12 s per head width of
    attention (all pairs, as Megatron-LM and PaLM count; half of them with `causal`): Narayanan 2021, eq. 3;
    Chowdhery 2022, appendix B.
    """
    table = model.vocab_size * model.hidden_size
    weights = model.num_active_text_params - table + (table if model.tied_embeddings else 0)
    pairs = seq_len / 2.0 if causal else seq_len
    attention = sum(
        6.0 * core.num_heads * (core.head_dim + core.v_head_dim) * pairs for core in model.attention_cores()
    )
    return 6.0 * weights + attention


def iteration_s(row: TrainingRow, job: Job, recompute: str) -> float | None:
    """Return the measured time of a step, None for rows that measured something else.

    Raises
    ------
    RowError
        If the metric is unknown or its value is not positive.
    """
    metric = row.metric.lower()
    if metric in MEMORY_METRICS or metric in (LAYER_METRIC, FEASIBLE_METRIC):
        return None
    if row.value <= 0.0:
        raise RowError("the measured value is not positive")
    tokens = job.global_batch * job.seq_len
    flops = tokens * job.flops_per_token
    again = 4.0 / 3.0 if recompute == "full" else 1.0
    found = {
        "iteration_time_s": row.value,
        "iteration_time_ms": row.value / 1e3,
        "step_time_s": row.value,
        "tokens_per_s_per_gpu": tokens / (row.value * row.gpus),
        "tokens_per_s_total": tokens / row.value,
        "tokens_per_s": tokens / row.value,
        "samples_per_s_per_gpu": job.global_batch / (row.value * row.gpus),
        "samples_per_s_total": job.global_batch / row.value,
        "samples_per_s": job.global_batch / row.value,
        "hardware_tflops_per_gpu": again * flops / (row.value * 1e12 * row.gpus),
        "model_tflops_per_gpu": flops / (row.value * 1e12 * row.gpus),
        "tflops_per_gpu": again * flops / (row.value * 1e12 * row.gpus),
        "mfu_pct": flops / (row.value / 100.0 * job.peak_flops_per_s * row.gpus),
        "mfu": flops / (row.value * job.peak_flops_per_s * row.gpus),
        "hfu_pct": again * flops / (row.value / 100.0 * job.peak_flops_per_s * row.gpus),
    }.get(metric)
    if found is None:
        raise RowError(f"no such metric is known: {row.metric[:40]!r}")
    return found
