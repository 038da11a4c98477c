"""Prices one layer of a training step under (tp, cp, ep, etp): forward, backward and what is kept.

Shapes of the matrix products are the real sharded ones: forward (t, n, k), input gradient (t, k, n) and
weight gradient (k, n, t), so that odd hidden sizes and head counts show in the time. Element-wise
kernels are counted in bytes per token, as named beside each.
"""

from __future__ import annotations

from itertools import groupby

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.formats import number_format
from cost_models.work import Collective, CollectiveOp, ExpertGemm, Gemm, Span, StateScan, Stream, Work
from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, Op, Small, StateCore
from planner.space.training.alignment import alignment
from planner.space.training.attention_work import AttentionWork
from planner.space.training.expert_work import ExpertWork
from planner.space.training.layer_work import ACT_BYTES, Groups, LayerSum, LayerWork, Shape
from planner.space.training.software import TrainingSoftware

_SCAN_BACKWARD = 2.0
_HALF = ("bf16", "fp16")
_ROW_CAST_BYTES = 5.0
_GATHERS = 0.5
"""Share of the gathers in the tensor communication of a forward pass, the rest being reductions."""


def _gemm_key(op: Op) -> object:
    """Return what tells whether neighbouring operators run as one GEMM."""
    return ("gemm", op.gemm) if isinstance(op, Linear) and op.gemm else id(op)


class LayerPricer:
    """Prices layers of one model shape on one device kind, for a vector of micro-batch sizes."""

    def __init__(
        self,
        costs: CostModel,
        shape: Shape,
        groups: Groups,
        software: TrainingSoftware,
        micro_batch: FloatArray,
    ) -> None:
        self._costs = costs
        self.shape = shape
        self.groups = groups
        self.software = software
        self.batch = micro_batch
        self._latent = False
        self.tokens = micro_batch * (shape.seq_len / shape.cp)
        # Inputs of quantised products are kept as they were multiplied.
        self.input_bytes = number_format(shape.fmt).activation_bytes
        # Residual-stream tensors are split over the tensor ranks only with sequence parallelism.
        self.residual_tokens = self.tokens / (shape.tp if shape.sequence_parallel else 1)

    def price(self, layer: Layer, hidden: int) -> LayerWork:
        """Return the work of one layer."""
        acc = LayerSum.like(self.tokens)
        self._latent = any(isinstance(op, AttentionCore) and op.kind == "mla" for op in layer.ops)
        for _, ops in groupby(layer.ops, key=_gemm_key):
            self._add(tuple(ops), acc)
        self._add_residual_stream(layer, hidden, acc)
        forward_comm, backward_comm = self._tensor_comm(layer, hidden, acc)
        host = self.software.per_layer_s + acc.host
        forward = np.maximum(acc.forward, host)
        backward = np.maximum(acc.backward + acc.weight_grad, 2.0 * host) - acc.weight_grad
        again = self.software.selective_products if self.software.flash_attention else 0.0
        # A stack that saves single operators gathers the inputs of the others once more.
        gathers = _GATHERS * forward_comm if again > 0.0 else 0.0
        kept = acc.kept + acc.products_kept
        exposed = acc.expert_comm * (1.0 - self.software.ep_overlap) + acc.context_comm
        exposed = exposed + acc.exchange_comm
        return LayerWork(
            forward_s=forward,
            backward_s=backward,
            weight_grad_s=acc.weight_grad,
            forward_comm_s=forward_comm + exposed,
            backward_comm_s=backward_comm + exposed + acc.context_comm,
            recompute_selective_s=acc.core + again * acc.products + gathers,
            recompute_full_s=forward + forward_comm + exposed,
            kept_none_bytes=kept + acc.core_kept,
            kept_selective_bytes=kept - again * acc.products_kept,
            kept_full_bytes=self.residual_tokens * hidden * ACT_BYTES,
            working_bytes=acc.working + self.tokens * hidden * ACT_BYTES * 2.0,
            error_s=acc.error,
            dense_params=acc.dense_params,
            expert_params=acc.expert_params,
        )

    def time(self, work: Work, acc: LayerSum | None = None) -> FloatArray:
        """Return the seconds of a kernel at the software's clocks, and note its error."""
        cost = self._costs.price(work)
        scale = 1.0 if isinstance(work, Collective | Stream) else self.software.compute_scale
        if isinstance(work, Gemm | ExpertGemm) and work.fmt in _HALF:
            scale *= self.software.half_scale
        time_s = np.broadcast_to(cost.time_s * scale, self.tokens.shape).astype(np.float64)
        if acc is not None:
            acc.error += time_s * cost.sigma_log
        return time_s

    def stream(self, num_bytes: FloatArray, num_kernels: float = 1.0) -> FloatArray:
        """Return the seconds of element-wise kernels."""
        return self.time(
            Stream(num_bytes=num_bytes * self.software.elementwise_scale, num_kernels=num_kernels)
        )

    def fused(self, amount: FloatArray) -> FloatArray:
        """Return `amount` where attention is fused and selective recompute repeats what lies around it."""
        return amount if self.software.flash_attention else np.zeros_like(amount)

    def collective(self, op: CollectiveOp, num_bytes: FloatArray, span: Span) -> FloatArray:
        """Return the seconds of a collective."""
        return self.time(Collective(op=op, num_bytes=num_bytes, span=span))

    def _add(self, ops: tuple[Op, ...], acc: LayerSum) -> None:
        linears = tuple(op for op in ops if isinstance(op, Linear))
        if linears:
            self._add_linears(linears, acc)
            return
        op = ops[0]
        if isinstance(op, Experts):
            ExpertWork(self).add(op, acc)
        elif isinstance(op, AttentionCore):
            AttentionWork(self).add(op, acc)
        elif isinstance(op, StateCore):
            self._add_state(op, acc)
        elif isinstance(op, Small):
            acc.dense_params += op.num_params_per_rank(self.shape.tp)

    def _add_linears(self, ops: tuple[Linear, ...], acc: LayerSum) -> None:
        """Add maps that read the same input and run as one GEMM."""
        tp = self.shape.tp
        shapes = [op.shape_per_rank(tp) for op in ops]
        k = float(shapes[0][0])
        n = float(sum(cols for _, cols in shapes))
        acc.dense_params += sum(op.num_params_per_rank(tp) for op in ops if not op.tied)
        first = ops[0]
        if first.per_token <= 0.0:
            return
        tokens = self.tokens * first.per_token
        fmt = self.shape.fmt if first.quantised else "bf16"
        lost = 1.0 / alignment(k, n)
        forward = self.time(Gemm(m=tokens, n=n, k=k, fmt=fmt), acc) * lost
        acc.forward += forward
        acc.products += forward
        if self._latent and first.slot == "attention" and first.shard == "column":
            acc.core += self.fused(forward)  # selective recompute projects latents up again
        acc.backward += self.time(Gemm(m=tokens, n=k, k=n, fmt=fmt), acc) * lost
        acc.weight_grad += self.time(Gemm(m=np.full_like(tokens, k), n=n, k=tokens, fmt=fmt), acc) * lost
        if self.software.row_scales and number_format(fmt).quantises:
            self._add_row_casts(tokens, k, n, acc)
        if first.shard == "row":  # its input is the output of an activation or of attention
            again = self.software.flash_attention and first.slot in ("dense_ffn", "shared_expert")
            if again:  # selective recompute repeats the activation function
                acc.core_kept += tokens * k * self.input_bytes
            else:
                acc.kept += tokens * k * self.input_bytes
        if first.slot in ("dense_ffn", "shared_expert") and first.shard != "row":
            self.add_activation(tokens * n, acc, gated=len(ops) > 1)
        acc.working = np.maximum(acc.working, tokens * n * ACT_BYTES)
        if first.slot == "head":  # a layer that predicts a further token
            loss = self.loss_s(tokens * n)
            acc.forward += loss
            acc.backward += loss

    def _add_row_casts(self, tokens: FloatArray, k: float, n: float, acc: LayerSum) -> None:
        """Add the casts of a product's operands with a scale per row: each product scales along its own sum.

        A cast reads 16 bit twice, for the largest element of a row and to scale it, and writes 8 bit; nothing
        before it knows the row. Checked on pytorch/torchtitan commit 7a04053: Llama 3 8B on 8 H100 at 500 W
        takes 1.12 times as long as with one scale per tensor, predicted 1.13.
        """
        inputs, weights, gradients = tokens * k, k * n, tokens * n
        acc.forward += self.time(Stream(num_bytes=_ROW_CAST_BYTES * (inputs + weights), num_kernels=2.0))
        acc.backward += self.time(Stream(num_bytes=_ROW_CAST_BYTES * (gradients + weights), num_kernels=2.0))
        acc.weight_grad += self.time(
            Stream(num_bytes=_ROW_CAST_BYTES * (inputs + gradients), num_kernels=2.0)
        )

    def loss_s(self, logits: FloatArray) -> FloatArray:
        """Return the seconds of one pass of the loss: each moves half of the stack's bytes per logit."""
        return self.time(Stream(num_bytes=logits * self.software.loss_bytes / 2.0, num_kernels=4.0))

    def add_activation(self, elements: FloatArray, acc: LayerSum, *, gated: bool) -> None:
        """Add the activation function over `elements` outputs of the up (and gate) projection.

        GeLU reads and writes 16 bit forward, reads two and writes one backward; a gate halves the output.
        """
        acc.products_kept += elements * ACT_BYTES
        if gated and self.software.eager_copies:  # the gate after its activation function
            acc.products_kept += elements / 2.0 * ACT_BYTES
        forward = self.stream(elements * (3.0 if gated else 4.0))
        acc.forward += forward
        if self.software.flash_attention:
            acc.core += forward
        acc.backward += self.stream(elements * (5.0 if gated else 6.0))

    def _add_state(self, op: StateCore, acc: LayerSum) -> None:
        work = StateScan(
            phase="prefill",
            num_tokens=self.tokens,
            batch=self.batch,
            state_elems=op.recurrent_elems_per_rank(self.shape.tp),
        )
        scan = self.time(work, acc)
        acc.forward += scan
        acc.backward += _SCAN_BACKWARD * scan
        acc.core += scan

    def _add_residual_stream(self, layer: Layer, hidden: int, acc: LayerSum) -> None:
        """Norms (4 bytes forward, 6 backward) and residual additions (6 and 6; dropout adds 1 and 5).

        Kept: the norm's input and output, and the mask of the dropout (Korthikanti 2022, section 4.1).
        """
        num_blocks = max(
            1,
            sum(1 for op in layer.ops if isinstance(op, Linear) and op.shard == "row" and op.per_token > 0),
        )
        elements = self.residual_tokens * hidden * num_blocks
        dropout = 1.0 if self.software.dropout else 0.0
        acc.forward += self.stream(elements * (10.0 + dropout), 2.0 * num_blocks)
        acc.backward += self.stream(elements * (12.0 + 5.0 * dropout), 3.0 * num_blocks)
        acc.kept += elements * (ACT_BYTES + dropout)
        if self.software.flash_attention:  # selective recompute repeats the norms
            acc.core += self.stream(elements * 4.0, num_blocks)
            acc.core_kept += elements * self.input_bytes
        else:
            acc.kept += elements * self.input_bytes

    def _tensor_comm(self, layer: Layer, hidden: int, acc: LayerSum) -> tuple[FloatArray, FloatArray]:
        """One all-reduce (or reduce-scatter + all-gather) per block and pass, Megatron-LM 2019.

        With sequence parallelism backward gathers the input of every column map once more (Korthikanti 2022).
        """
        zero = np.zeros_like(self.tokens)
        if self.shape.tp == 1:
            return zero, zero
        num_rows = sum(
            1 for op in layer.ops if isinstance(op, Linear) and op.shard == "row" and op.per_token > 0
        )
        num_bytes = self.tokens * hidden * ACT_BYTES
        span = self.groups.tensor
        visible = num_rows * (1.0 - self.software.tp_overlap)
        if not self.shape.sequence_parallel:
            once = visible * self.time(Collective(op="all_reduce", num_bytes=num_bytes, span=span), acc)
            return once, once
        gather = visible * self.collective("all_gather", num_bytes, span)
        scatter = visible * self.collective("reduce_scatter", num_bytes, span)
        # Inputs of quantised products are cast before they are gathered, unless each row has a scale;
        # gradients travel in 16 bit.
        sent = ACT_BYTES if self.software.row_scales else self.input_bytes
        cast = visible * self.collective("all_gather", num_bytes * sent / ACT_BYTES, span)
        again = cast * (1.0 - self.software.regather_overlap)
        return cast + scatter, gather + scatter + again
