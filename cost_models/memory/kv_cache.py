"""Bytes of the KV cache, in the blocks that engines allocate."""

from __future__ import annotations

import numpy as np

from cost_models.cost import FloatArray
from cost_models.formats import number_format


def kv_bytes_per_token(num_kv_heads: float, head_dim: float, v_head_dim: float, fmt: str) -> float:
    """Return the bytes of one token in one layer on one device: kv_heads (K + V) elements.

    A latent (MLA) cache row is one head of the latent width with `v_head_dim` 0.

    Source: layout of the cache; formats with group scales count them.
    """
    return num_kv_heads * (head_dim + v_head_dim) * number_format(fmt).weight_bytes


def blocks_of(num_tokens: float | FloatArray, block_tokens: int) -> FloatArray:
    """Return the blocks that a sequence of so many tokens holds; the last one may be half empty."""
    return np.ceil(np.asarray(num_tokens, dtype=np.float64) / block_tokens)


def sequence_bytes(num_tokens: float | FloatArray, bytes_per_token: float, block_tokens: int) -> FloatArray:
    """Return the bytes that a sequence occupies, whole blocks."""
    return blocks_of(num_tokens, block_tokens) * block_tokens * bytes_per_token


def capacity_tokens(free_bytes: float, bytes_per_token: float, block_tokens: int) -> int:
    """Return the tokens that fit into `free_bytes`, in whole blocks; 0 if nothing fits."""
    if free_bytes <= 0.0:
        return 0
    return int(free_bytes // (bytes_per_token * block_tokens)) * block_tokens
