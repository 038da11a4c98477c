"""What one layer of a training step costs for one micro-batch: the shapes that decide it and the result.

All arrays run over micro-batch sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cost_models.cost import FloatArray
from cost_models.work import Span

ACT_BYTES = 2.0
"""Activations, gradients of activations and weights in a kernel are 16 bit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the time of a layer depends on, apart from the micro-batch size."""

    seq_len: int
    tp: int
    cp: int
    ep: int
    etp: int
    sequence_parallel: bool
    fmt: str
    cp_ulysses: int = 1
    routing_skew: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Where the collectives of a layer run."""

    tensor: Span
    context: Span
    exchange: Span
    expert: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerWork:
    """Times (seconds) and bytes of one layer for one micro-batch on one device, over micro-batch sizes.

    `backward_s` is the pass for input gradients without recompute, `weight_grad_s` that for weights.
    Communication is exposed time, by pass. `recompute_*_s` is the extra forward work, communication
    included, that the backward pass does under each recompute choice. `kept_*` are activation bytes held
    from forward to backward, `working_bytes` the transient gradients beside them. `error_s` is the sum of
    each kernel's time and the spread (log) of its curve, for the interval.
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
    working_bytes: FloatArray
    error_s: FloatArray
    dense_params: float
    expert_params: float


@dataclass(slots=True, kw_only=True)
class LayerSum:
    """Running sums while the operators of a layer are walked.

    `core` is forward work that selective recompute repeats, `core_kept` the bytes that it saves; `products`
    are the forward matrix products and `products_kept` their kept outputs;
    `host` is what the host takes to launch a pass of what is launched piece by piece.
    """

    forward: FloatArray
    backward: FloatArray
    weight_grad: FloatArray
    core: FloatArray
    kept: FloatArray
    core_kept: FloatArray
    working: FloatArray
    products: FloatArray
    products_kept: FloatArray
    expert_comm: FloatArray
    context_comm: FloatArray
    exchange_comm: FloatArray
    error: FloatArray
    dense_params: float = 0.0
    expert_params: float = 0.0
    host: float = 0.0

    @staticmethod
    def like(tokens: FloatArray) -> LayerSum:
        """Return sums at zero with the shape of `tokens`."""
        new = LayerSum.__new__(LayerSum)
        for field in fields(LayerSum):
            setattr(new, field.name, 0.0 if field.default == 0.0 else np.zeros_like(tokens))
        return new
