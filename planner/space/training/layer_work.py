"""One layer of a training step under (tp, cp, ep, etp): forward and backward work, and what it keeps.

All arrays run over micro-batch sizes. Shapes of the GEMMs are the real sharded ones, forward
(t, n, k), input gradient (t, k, n) and weight gradient (k, n, t), so that odd hidden sizes and
head counts show in the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import Attention, AttentionKind, Collective, ExpertGemm, Gemm, Span, StateScan, Stream
from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, Op, Small, StateCore

_ACT_BYTES = 2.0  # activations, gradients of activations and weights are 16 bit
_FLASH_BACKWARD_FLOPS = 2.5  # five matrix products against two, Dao 2022 (FlashAttention), section 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the time of a layer depends on, apart from the micro-batch size."""

    seq_len: int
    tp: int
    cp: int
    ep: int
    etp: int
    sequence_parallel: bool
    flash_attention: bool
    fmt: str
    routing_skew: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where the collectives of a layer run."""

    tensor: Span
    context: Span
    expert: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Constants of the training software (see `SoftwareProfile`); all dimensionless but the last.

    `attention_backward` is the backward-to-forward FLOP ratio divided by the relative efficiency of the
    backward kernel; `elementwise` scales the bytes of unfused element-wise kernels.
    """

    attention_backward: float = _FLASH_BACKWARD_FLOPS / 0.8
    elementwise: float = 1.0
    per_layer_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """Times (seconds) and bytes of one layer for one micro-batch on one device, over micro-batch sizes.

    `recompute_selective_s` / `recompute_full_s` is the extra forward work in the backward pass.
    `kept_*` are activation bytes held from forward to backward under each recompute choice;
    `tp_bytes` is what every tensor-parallel collective moves.
    """

    forward_s: FloatArray
    backward_s: FloatArray
    weight_grad_s: FloatArray
    forward_comm_s: FloatArray
    backward_comm_s: FloatArray
    recompute_selective_s: FloatArray
    recompute_full_s: FloatArray
    kept_none_bytes: FloatArray
    kept_selective_bytes: FloatArray
    kept_full_bytes: FloatArray
    dense_params: float
    expert_params: float


@dataclass(slots=True)
class _Sum:
    """Running sums while the operators of a layer are walked."""

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    core: FloatArray
    kept: FloatArray
    core_kept: FloatArray
    elementwise_kept: FloatArray
    expert_comm: FloatArray
    context_comm: FloatArray
    dense_params: float = 0.0
    expert_params: float = 0.0

    @staticmethod
    def like(tokens: FloatArray) -> _Sum:
        """Return sums at zero with the shape of `tokens`."""
        a, b, c, d, e, f, g, h, i = (np.zeros_like(tokens) for _ in range(9))
        return _Sum(a, b, c, d, e, f, g, h, i)


def _gemm_key(op: Op) -> object:
    """Return what tells whether neighbouring operators run as one GEMM."""
    return ("gemm", op.gemm) if isinstance(op, Linear) and op.gemm else id(op)


class LayerPricer:
    """Prices layers of one model shape on one device kind, for a vector of micro-batch sizes."""

    def __init__(
        self, costs: CostModel, shape: Shape, groups: Groups, tuning: Tuning, micro_batch: FloatArray
    ) -> None:
        self._costs = costs
        self._shape = shape
        self._groups = groups
        self._tuning = tuning
        self._batch = micro_batch
        self.tokens = micro_batch * (shape.seq_len / shape.cp)
        # Residual-stream tensors are split over the tensor ranks only with sequence parallelism.
        self.residual_tokens = self.tokens / (shape.tp if shape.sequence_parallel else 1)

    def price(self, layer: Layer, hidden: int) -> LayerWork:
        """Return the work of one layer."""
        acc = _Sum.like(self.tokens)
        for _, ops in groupby(layer.ops, key=_gemm_key):
            self._add(tuple(ops), acc)
        self._add_residual_stream(layer, hidden, acc)
        comm_forward, comm_backward = self._tensor_comm(layer, hidden)
        forward = acc.forward + self._tuning.per_layer_s
        forward_comm = comm_forward + acc.expert_comm + acc.context_comm
        return LayerWork(
            forward_s=forward,
            backward_s=acc.backward + self._tuning.per_layer_s,
            weight_grad_s=acc.weight_grad,
            forward_comm_s=forward_comm,
            backward_comm_s=comm_backward + acc.expert_comm + 2.0 * acc.context_comm,
            recompute_selective_s=acc.core if not self._shape.flash_attention else self._elementwise_s(acc),
            recompute_full_s=forward + forward_comm,
            kept_none_bytes=acc.kept + acc.core_kept + acc.elementwise_kept,
            kept_selective_bytes=acc.kept if self._shape.flash_attention else acc.kept + acc.elementwise_kept,
            kept_full_bytes=self.residual_tokens * hidden * _ACT_BYTES,
            dense_params=acc.dense_params,
            expert_params=acc.expert_params,
        )

    def _time(self, work: Gemm | Attention | ExpertGemm | Stream | StateScan | Collective) -> FloatArray:
        return np.broadcast_to(self._costs.price(work).time_s, self.tokens.shape).astype(np.float64)

    def _stream(self, num_bytes: FloatArray, num_kernels: float = 1.0) -> FloatArray:
        return self._time(Stream(num_bytes=num_bytes * self._tuning.elementwise, num_kernels=num_kernels))

    def _elementwise_s(self, acc: _Sum) -> FloatArray:
        return self._stream(2.0 * acc.elementwise_kept, 3.0)

    def _add(self, ops: tuple[Op, ...], acc: _Sum) -> None:
        linears = tuple(op for op in ops if isinstance(op, Linear))
        if linears:
            self._add_linears(linears, acc)
            return
        op = ops[0]
        if isinstance(op, Experts):
            self._add_experts(op, acc)
        elif isinstance(op, AttentionCore):
            self._add_attention(op, acc)
        elif isinstance(op, StateCore):
            self._add_state(op, acc)
        elif isinstance(op, Small):
            acc.dense_params += op.num_params_per_rank(self._shape.tp)

    def _add_linears(self, ops: tuple[Linear, ...], acc: _Sum) -> None:
        """Add maps that read the same input and run as one GEMM."""
        tp = self._shape.tp
        shapes = [op.shape_per_rank(tp) for op in ops]
        k = float(shapes[0][0])
        n = float(sum(cols for _, cols in shapes))
        acc.dense_params += sum(op.num_params_per_rank(tp) for op in ops)
        first = ops[0]
        if first.per_token <= 0.0:
            return
        tokens = self.tokens * first.per_token
        fmt = self._shape.fmt if first.quantised else "bf16"
        acc.forward += self._time(Gemm(m=tokens, n=n, k=k, fmt=fmt))
        acc.backward += self._time(Gemm(m=tokens, n=k, k=n, fmt=fmt))
        acc.weight_grad += self._time(Gemm(m=np.full_like(tokens, k), n=n, k=tokens, fmt=fmt))
        if first.shard == "row":  # its input is the output of an activation or of attention
            acc.kept += tokens * k * _ACT_BYTES
        if first.slot in ("dense_ffn", "shared_expert") and first.shard != "row":
            # Output of the up (and gate) projection: kept for the activation function's backward.
            acc.elementwise_kept += tokens * n * _ACT_BYTES
            acc.forward += self._stream(tokens * n * 1.5 * _ACT_BYTES)
            acc.backward += self._stream(tokens * n * 2.5 * _ACT_BYTES)

    def _add_experts(self, op: Experts, acc: _Sum) -> None:
        shape = self._shape
        group_tokens = self.tokens * shape.ep * shape.tp / shape.etp
        work = ExpertGemm(
            num_tokens=group_tokens / (shape.tp if shape.sequence_parallel or shape.tp > 1 else 1),
            hidden=op.hidden,
            inter=op.inter,
            top_k=op.top_k,
            num_experts=op.num_experts,
            tp=shape.etp,
            ep=shape.ep,
            skew=shape.routing_skew,
            gated=op.gated,
            fmt=shape.fmt,
        )
        time_s = self._time(work)
        acc.forward += time_s
        acc.backward += time_s
        acc.weight_grad += time_s
        acc.expert_params += op.num_params_per_rank(shape.ep, shape.etp)
        routed = self.residual_tokens * op.top_k
        maps = 2.0 if op.gated else 1.0
        acc.kept += routed * (op.hidden + op.inter / shape.etp) * _ACT_BYTES
        acc.elementwise_kept += routed * maps * op.inter / shape.etp * _ACT_BYTES
        permute = self._stream(routed * op.hidden * 4.0 * _ACT_BYTES, 4.0)
        acc.forward += permute
        acc.backward += permute
        if self._groups.expert.num_ranks > 1:
            num_bytes = routed * op.hidden * _ACT_BYTES
            acc.expert_comm += 2.0 * self._time(
                Collective(op="all_to_all", num_bytes=num_bytes, span=self._groups.expert)
            )

    def _add_attention(self, op: AttentionCore, acc: _Sum) -> None:
        shape = self._shape
        heads = op.num_heads / shape.tp
        kv_heads = float(op.kv_heads_per_rank(shape.tp))
        kind: AttentionKind = "mla_expanded" if op.kind == "mla" else "gqa"
        # A ring splits every causal sequence into cp balanced shares: the work is 1/cp of the whole.
        full = Attention(
            phase="prefill",
            batch=self._batch,
            q_len=float(shape.seq_len),
            kv_len=float(shape.seq_len),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=op.head_dim,
            v_head_dim=op.v_head_dim,
            window=float(op.window),
            kind=kind,
        )
        kv_width = kv_heads * (op.head_dim + op.v_head_dim)
        if shape.flash_attention:
            core = self._time(full) / shape.cp
            acc.backward += core * self._tuning.attention_backward
        else:
            core = self._unfused_attention(op, heads)
            acc.backward += 2.0 * core
            acc.core_kept += 5.0 * heads * self._batch * float(shape.seq_len) ** 2  # Korthikanti 2022, eq. 1
        acc.forward += core
        acc.core += core
        acc.kept += self.tokens * (heads * op.head_dim + kv_width) * _ACT_BYTES
        if shape.cp > 1:
            ring = Collective(
                op="all_gather",
                num_bytes=self.tokens * shape.cp * kv_width * _ACT_BYTES,
                span=self._groups.context,
            )
            acc.context_comm += np.maximum(self._time(ring) - core, 0.0) + 0.05 * self._time(ring)

    def _unfused_attention(self, op: AttentionCore, heads: float) -> FloatArray:
        """Two batched GEMMs and the softmax passes over the score matrix (about five, 16 bit)."""
        s = float(self._shape.seq_len)
        scores = heads * self._batch * s * s / self._shape.cp
        products = self._time(Gemm(m=self._batch * heads * s, n=s, k=float(op.head_dim))) + self._time(
            Gemm(m=self._batch * heads * s, n=float(op.v_head_dim), k=s)
        )
        return products / self._shape.cp + self._stream(scores * 5.0 * _ACT_BYTES, 3.0)

    def _add_state(self, op: StateCore, acc: _Sum) -> None:
        scan = self._time(
            StateScan(
                phase="prefill",
                num_tokens=self.tokens,
                batch=self._batch,
                state_elems=op.recurrent_elems / self._shape.tp,
            )
        )
        acc.forward += scan
        acc.backward += 2.0 * scan
        acc.core += scan

    def _add_residual_stream(self, layer: Layer, hidden: int, acc: _Sum) -> None:
        """Norms and residual additions: two of each per layer with a mixer and a feed-forward block."""
        num_norms = sum(
            1 for op in layer.ops if isinstance(op, Small) and "norm" in op.name and op.num_params >= hidden
        )
        num_norms = max(num_norms, 1)
        per_norm = self.residual_tokens * hidden * _ACT_BYTES
        acc.forward += self._stream(per_norm * 5.0 * num_norms, 2.0 * num_norms)
        acc.backward += self._stream(per_norm * 7.0 * num_norms, 2.0 * num_norms)
        acc.kept += per_norm * num_norms
        # The normalised input of the column projections; sequence parallelism keeps only the shard.
        acc.elementwise_kept += per_norm * num_norms

    def _tensor_comm(self, layer: Layer, hidden: int) -> tuple[FloatArray, FloatArray]:
        """One all-reduce (or reduce-scatter + all-gather) per row projection and pass, Megatron-LM 2019."""
        zero = np.zeros_like(self.tokens)
        if self._shape.tp == 1:
            return zero, zero
        num_rows = sum(
            1 for op in layer.ops if isinstance(op, Linear) and op.shard == "row" and op.per_token > 0
        )
        num_bytes = self.tokens * hidden * _ACT_BYTES
        span = self._groups.tensor
        if not self._shape.sequence_parallel:
            once = self._time(Collective(op="all_reduce", num_bytes=num_bytes, span=span))
            return num_rows * once, num_rows * once
        gather = self._time(Collective(op="all_gather", num_bytes=num_bytes, span=span))
        scatter = self._time(Collective(op="reduce_scatter", num_bytes=num_bytes, span=span))
        # Backward gathers the saved shard of each column input once more for the weight gradient.
        return num_rows * (gather + scatter), num_rows * (2.0 * gather + scatter)
