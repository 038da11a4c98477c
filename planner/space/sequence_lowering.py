"""The coefficients of a model's training sequences: the bridge from layers to sequence costs."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cost_models.sequences.times import SequenceCosts, exchange_bytes, pair_flops, token_flops
from planner.ir.model_graph import AttentionCore, ModelGraph


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSpeed:
    """A rank: achieved FLOP/s, bandwidths, ranks per node, tokens that fit, fixed time per micro-batch."""

    flops_per_s: float
    near_bytes_per_s: float
    far_bytes_per_s: float
    ranks_per_node: int
    rank_tokens: int
    microbatch_s: float


def sequence_costs(model: ModelGraph, rank: RankSpeed, *, recompute: bool) -> SequenceCosts:
    """Return the costs of training sequences of `model` on such a rank.

    Activations of a token are counted as 34 h bytes per layer (17 h elements in 16 bit; 2 h bytes with full
    recomputation), keys and values as what a cache would hold.

    Source: Korthikanti et al., Reducing Activation Recomputation (arXiv 2205.05198), table 2.
    """
    pairs: Counter[int] = Counter()
    for layer in model.layers:
        for core in layer.ops:
            if isinstance(core, AttentionCore) and not core.cross:
                width = (core.head_dim + core.v_head_dim) // 2
                pairs[core.window] += round(pair_flops(core.num_heads, width, recompute=recompute))
    per_layer = (2 if recompute else 34) * model.hidden_size
    return SequenceCosts(
        token_s=token_flops(model.num_active_text_params, recompute=recompute) / rank.flops_per_s,
        attention=tuple((flops / rank.flops_per_s, window) for window, flops in sorted(pairs.items())),
        exchange_bytes_per_token=exchange_bytes(model.hidden_size, model.num_layers),
        near_bytes_per_s=rank.near_bytes_per_s,
        far_bytes_per_s=rank.far_bytes_per_s,
        ranks_per_node=rank.ranks_per_node,
        microbatch_s=rank.microbatch_s,
        rank_tokens=rank.rank_tokens,
        kv_share=min(1.0, 2.0 * model.kv_elems_per_token / (per_layer * model.num_layers)),
    )
