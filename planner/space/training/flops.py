"""What a trained token costs in model FLOPs, whatever runs it: the numerator of MFU."""

from __future__ import annotations

from planner.ir.model_graph import Experts, Linear, ModelGraph, Op


def model_flops_per_token(model: ModelGraph, seq_len: int) -> float:
    """Return model FLOPs per trained token: 6 per weight that it is multiplied with, and causal attention.

    Tables are looked up and do not count, a tied head does; recomputation does not count.
    Source: Narayanan et al., SC 2021 (arXiv 2104.04473), section 5.1 and appendix, with half of the scores
    for causal attention.
    """
    ops: list[Op] = [*(op for layer in model.layers for op in layer.ops), *model.head]
    weights = sum(
        op.per_token * op.in_features * op.out_features
        if isinstance(op, Linear)
        else op.top_k * (3.0 if op.gated else 2.0) * op.hidden * op.inter
        for op in ops
        if isinstance(op, Linear | Experts)
    )
    scores = sum(
        core.num_heads
        * (core.head_dim + core.v_head_dim)
        * (min(core.window, seq_len) if core.window else seq_len / 2.0)
        for core in model.attention_cores()
    )
    return 6.0 * (weights + scores)
