"""What a step takes longer because weights come from host memory while it runs."""

from __future__ import annotations

import numpy as np

from cost_models.cost import FloatArray

READ_ROWS = 128.0
"""Rows of an expert's product that share one reading of its weights: the largest tile of grouped kernels."""


def exposed_copies_s(
    num_copies: float, num_hidden: float, copy_s: float, between_s: FloatArray
) -> FloatArray:
    """Return the seconds of a step in which layers wait for their weights.

    Of `num_copies` equal copies of `copy_s`, `num_hidden` run while layers that are on the device compute for
    `between_s`; with one buffer the next copy starts when the layer before has used it, so the others are
    waited for in full.

    Source: the order of events in vLLM's PrefetchOffloader (one static buffer, offload_prefetch_step 1)
    and in SGLang's OffloaderV1 (copies when needed, nothing hidden).
    """
    return num_copies * copy_s - num_hidden * np.minimum(copy_s, between_s)


def expert_read_bytes(
    held_bytes: float, num_tokens: FloatArray, top_k: float, num_experts: float
) -> FloatArray:
    """Return the bytes that kernels read over the link of experts that stay in host memory.

    `held_bytes` are all weights of `num_experts` experts. Tokens that choose independently ask for
    1 - (1 - k/E)^m of them, and an expert with many rows is read again for every tile of rows.

    Source: binomial occupancy; unified addressing keeps no copy on the device.
    """
    share = min(1.0, top_k / num_experts)
    asked = 1.0 - (1.0 - share) ** num_tokens
    rows = num_tokens * share / np.maximum(asked, 1e-300)
    return held_bytes * asked * np.maximum(1.0, np.ceil(rows / READ_ROWS - 1e-9))
