"""What a trained token costs in model FLOPs, whatever runs it: the numerator of MFU."""

from __future__ import annotations

from planner.ir.model_graph import ModelGraph


def model_flops_per_token(model: ModelGraph, seq_len: int) -> float:
    """Return model FLOPs per trained token: 6 per active parameter, and the causal attention products.

    Embedding tables are looked up and do not count; a tied head does. Recomputation does not count.
    Source: Narayanan et al., SC 2021 (arXiv 2104.04473), section 5.1 and appendix, with half of the scores
    for causal attention.
    """
    table = model.vocab_size * model.hidden_size
    weights = model.num_active_text_params - (0 if model.tied_embeddings else table)
    scores = sum(
        6.0
        * core.num_heads
        * (core.head_dim + core.v_head_dim)
        * (min(core.window, seq_len) if core.window else seq_len / 2.0)
        for core in model.attention_cores()
    )
    return 6.0 * weights + scores
