"""What an engine needs beside weights and cache: activations of a step, logits, communication, graphs."""

from __future__ import annotations

from dataclasses import dataclass

_HALF_BYTES = 2.0
_FLOAT_BYTES = 4.0
NCCL_CHANNEL_BUFFER_BYTES = 4 * 1024 * 1024
"""NCCL_BUFFSIZE, default 4 MiB per channel and direction (NCCL documentation, environment variables)."""
NCCL_CHANNELS = 16
"""Channels of one communicator on NVLink systems, typical of 16 to 32 in NCCL_DEBUG logs."""
CUSTOM_ALL_REDUCE_BYTES = 16 * 1024 * 1024
"""Registered buffers of an engine's own all-reduce: two of 8 MiB (vLLM custom_all_reduce, max_size)."""
GRAPH_BYTES_PER_SIZE = 24 * 1024 * 1024
"""One full CUDA graph in vLLM (vllm-project/vllm issue 50780, 2026)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """Widths of the widest tensors of one layer on one device, in elements per token.

    `residual` is the hidden size (not sharded), `attention` the query, key and value widths together,
    `mlp` the width of gate and up together, `vocabulary` this device's share of the logits.
    """

    residual: float
    attention: float
    mlp: float
    vocabulary: float


def activation_bytes(shape: StepShape, num_tokens: float, num_sampled: float) -> float:
    """Return the peak bytes of activations of one step of `num_tokens` tokens.

    The residual stream and its normalised copy live through the layer; beside them either attention's
    inputs and output or the MLP's two intermediates (gate with up, and their product), in half precision.
    Afterwards the logits of `num_sampled` sequences exist in half and in single precision.

    Source: tensors that a decoder layer keeps alive at once, inference, no recompute.
    """
    stream = 2.0 * shape.residual
    inside = max(shape.attention + shape.residual, 1.5 * shape.mlp)
    layer = num_tokens * (stream + inside) * _HALF_BYTES
    logits = num_sampled * shape.vocabulary * (_HALF_BYTES + _FLOAT_BYTES)
    head = num_tokens * stream * _HALF_BYTES + logits
    return max(layer, head)


def communication_bytes(num_communicators: int, *, custom_all_reduce: bool = True) -> float:
    """Return the bytes of communication buffers on one device, none without communicators.

    Source: NCCL channel buffers, one to send and one to receive, and an engine's own all-reduce.
    """
    if num_communicators <= 0:
        return 0.0
    nccl = num_communicators * NCCL_CHANNELS * 2.0 * NCCL_CHANNEL_BUFFER_BYTES
    return nccl + (CUSTOM_ALL_REDUCE_BYTES if custom_all_reduce else 0.0)


def graph_bytes(num_captured_sizes: int) -> float:
    """Return the bytes of CUDA graphs captured for so many batch sizes.

    Source: see GRAPH_BYTES_PER_SIZE.
    """
    return float(num_captured_sizes * GRAPH_BYTES_PER_SIZE)
