"""The attention core of a layer in training: fused (flash) or with the score matrix in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cost_models.cost import FloatArray
from cost_models.work import Attention, AttentionKind, Gemm, Stream
from planner.ir.model_graph import AttentionCore
from planner.space.training.alignment import alignment
from planner.space.training.layer_work import ACT_BYTES, LayerSum

if TYPE_CHECKING:
    from planner.space.training.layer_pricer import LayerPricer

_SCORE_BACKWARD = 17.0 / 11.0
_RING_EXPOSED = 0.05
_BATCHED_LOSS = 1.25
"""Batched products of one head each run at about 0.8 of one product of the same size (Anthony et al. 2024,
fig. 6)."""


class AttentionWork:
    """Adds one attention core to the sums of a layer."""

    def __init__(self, pricer: LayerPricer) -> None:
        self._pricer = pricer
        self._shape = pricer.shape

    def add(self, op: AttentionCore, acc: LayerSum) -> None:
        """Add time, context-parallel traffic and kept bytes of `op`."""
        pricer = self._pricer
        heads = float(-(-op.num_heads // self._shape.tp))
        kv_heads = float(op.kv_heads_per_rank(self._shape.tp))
        kv_width = kv_heads * (op.head_dim + op.v_head_dim)
        widths = heads * op.head_dim + kv_width
        if pricer.software.flash_attention:
            core = self._flash(op, heads, kv_heads, acc)
            acc.backward += core * pricer.software.attention_backward
            acc.kept += pricer.tokens * heads * 4.0  # row sums in 32 bit
            if pricer.software.eager_copies:  # the output before its heads are joined
                acc.kept += pricer.tokens * heads * op.v_head_dim * ACT_BYTES
        else:
            core = self._unfused(op, heads, acc)
        acc.forward += core
        # Rotary embedding, or splitting and transposing heads: read and write 16 bit of queries, keys,
        # values.
        moved = pricer.stream(pricer.tokens * widths * 4.0, 2.0)
        acc.forward += moved
        acc.backward += moved
        kept = pricer.tokens * widths * ACT_BYTES
        # Queries, keys and values of latent attention are rebuilt by selective recompute (mla_up_proj of
        # Megatron-Core; DeepSeek-V3 report, section 3.2.3).
        again = pricer.fused(kept) if op.kind == "mla" else np.zeros_like(kept)
        acc.core_kept += again
        acc.products_kept += kept - again
        self._add_context(op, core, kv_width, acc)

    def _flash(self, op: AttentionCore, heads: float, kv_heads: float, acc: LayerSum) -> FloatArray:
        kind: AttentionKind = "mla_expanded" if op.kind == "mla" else "gqa"
        seq = float(self._shape.seq_len)
        # Context parallelism splits every causal sequence into balanced shares: the work is 1/cp of the
        # whole.
        work = Attention(
            phase="prefill",
            batch=self._pricer.batch,
            q_len=seq,
            kv_len=seq,
            num_heads=heads,
            num_kv_heads=heads if op.kind == "mla" else kv_heads,
            head_dim=op.head_dim,
            v_head_dim=op.v_head_dim,
            window=float(op.window),
            kind=kind,
        )
        return self._pricer.time(work, acc) * (self._pricer.software.attention_scale / self._shape.cp)

    def _unfused(self, op: AttentionCore, heads: float, acc: LayerSum) -> FloatArray:
        """Two batched products and the passes over all of the score matrix: causal masks skip nothing."""
        pricer = self._pricer
        seq = float(self._shape.seq_len)
        rows = pricer.batch * heads * seq / self._shape.cp
        scores = rows * seq
        lost = _BATCHED_LOSS / alignment(op.head_dim, seq)
        products = pricer.time(Gemm(m=rows, n=seq, k=float(op.head_dim)), acc)
        products = (products + pricer.time(Gemm(m=rows, n=float(op.v_head_dim), k=seq), acc)) * lost
        software = pricer.software
        passes = pricer.time(Stream(num_bytes=scores * software.score_bytes, num_kernels=3.0))
        acc.backward += 2.0 * products + passes * _SCORE_BACKWARD
        acc.core += products + passes
        # Softmax output and dropped-out output in 16 bit and the mask (Korthikanti 2022, section 4.1).
        kept = (2.0 * ACT_BYTES + 1.0) if software.dropout else ACT_BYTES
        acc.core_kept += scores * kept
        acc.working = np.maximum(acc.working, scores * ACT_BYTES)
        return products + passes

    def _add_context(self, op: AttentionCore, core: FloatArray, kv_width: float, acc: LayerSum) -> None:
        """Heads are exchanged for pieces of the sequence, or keys and values travel round a ring, or both.

        The exchange (DeepSpeed-Ulysses, Jacobs et al. 2023) moves queries, keys, values and the output of
        every token once per pass, keys and values of shared heads as often as ranks need them; nothing hides
        it. The ring hides behind the core as far as it goes.
        """
        shape, pricer = self._shape, self._pricer
        if shape.cp == 1:
            return
        ranks = shape.cp_ulysses
        copies = max(1.0, ranks / op.kv_heads_per_rank(shape.tp))
        if ranks > 1:
            heads = -(-op.num_heads // shape.tp)
            width = heads * (op.head_dim + op.v_head_dim) + kv_width * copies
            num_bytes = pricer.tokens * width * ACT_BYTES
            acc.exchange_comm += pricer.collective("all_to_all", num_bytes, pricer.groups.exchange)
        if shape.cp == ranks:
            return
        ring = pricer.collective(
            "all_gather",
            pricer.tokens * shape.cp * kv_width * copies / ranks * ACT_BYTES,
            pricer.groups.context,
        )
        window = core * pricer.software.cp_overlap
        acc.context_comm += np.maximum(ring - window, _RING_EXPOSED * ring)
