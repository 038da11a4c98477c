"""The naive roofline of a piece of work: the larger of arithmetic at peak and bytes at bandwidth.

No launch, no efficiency, no algorithm: the reference that a fitted model has to beat.
"""

from __future__ import annotations

import numpy as np

from cost_models.communication.exchange import copies_sent
from cost_models.communication.fitted import wire_factor
from cost_models.compute.attention import attended_pairs, kv_row_bytes, visible_keys
from cost_models.compute.experts import active_experts
from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import number_format
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, TokenExchange, Work


def roofline_s(work: Work, facts: DeviceFacts) -> FloatArray:
    """Return max(operations / peak, bytes / bandwidth) in seconds.

    Source: Williams et al., Roofline, CACM 2009; wire factors of nccl-tests for collectives.

    Raises
    ------
    ValueError
        If the work has no roofline (transfers, tool calls) or the device no peak for its format.
    """
    if isinstance(work, Gemm):
        return _gemm(work, facts)
    if isinstance(work, Attention):
        return _attention(work, facts)
    if isinstance(work, ExpertGemm):
        return _experts(work, facts)
    if isinstance(work, Collective):
        return _collective(work)
    if isinstance(work, TokenExchange):
        return _exchange(work)
    raise ValueError(f"{type(work).__name__} has no roofline")


def _larger(flops: FloatArray, peak: float, num_bytes: FloatArray, facts: DeviceFacts) -> FloatArray:
    return np.maximum(flops / peak, num_bytes / facts.memory_bandwidth_bytes_per_s)


def _gemm(work: Gemm, facts: DeviceFacts) -> FloatArray:
    fmt = number_format(work.fmt)
    m, n, k = (np.asarray(x, dtype=np.float64) for x in (work.m, work.n, work.k))
    num_bytes = n * k * fmt.weight_bytes + m * k * fmt.activation_bytes + 2.0 * m * n
    return _larger(2.0 * m * n * k, facts.peak(fmt), num_bytes, facts)


def _attention(work: Attention, facts: DeviceFacts) -> FloatArray:
    batch, q_len, kv_len, heads, window = (
        np.asarray(x, dtype=np.float64)
        for x in (work.batch, work.q_len, work.kv_len, work.num_heads, work.window)
    )
    width = np.asarray(work.head_dim, dtype=np.float64) + np.asarray(work.v_head_dim, dtype=np.float64)
    flops = 2.0 * batch * heads * width * attended_pairs(q_len, kv_len, window)
    num_bytes = (
        batch * visible_keys(kv_len, window) * kv_row_bytes(work) + 2.0 * batch * q_len * heads * width
    )
    return _larger(flops, facts.peak(number_format(work.q_fmt)), num_bytes, facts)


def _experts(work: ExpertGemm, facts: DeviceFacts) -> FloatArray:
    fmt = number_format(work.fmt)
    tokens, top_k, experts, ep = (
        np.asarray(x, dtype=np.float64) for x in (work.num_tokens, work.top_k, work.num_experts, work.ep)
    )
    size = np.asarray(work.hidden, dtype=np.float64) * work.inter / np.asarray(work.tp, dtype=np.float64)
    size = size * (3.0 if work.gated else 2.0)
    active = active_experts(tokens, top_k, experts, ep, random=work.routing == "random")
    return _larger(2.0 * tokens * top_k / ep * size, facts.peak(fmt), active * size * fmt.weight_bytes, facts)


def _collective(work: Collective) -> FloatArray:
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
    slowest = np.zeros_like(num_bytes)
    inside = 1
    for ranks, link in zip(work.span.ranks_per_level, work.span.links, strict=True):
        crossing = wire_factor(work.op, ranks) / (1 if work.op in ("all_to_all", "p2p") else inside)
        if ranks > 1:
            slowest = np.maximum(slowest, num_bytes * crossing / link.bandwidth_bytes_per_s)
        inside *= ranks
    return slowest


def _exchange(work: TokenExchange) -> FloatArray:
    """Return the time of one copy per device of the first level, and per group above, at full bandwidth."""
    inside = float(work.span.ranks_per_level[0])
    groups = work.span.num_ranks / inside
    top_k = np.asarray(work.top_k, dtype=np.float64)
    local, across = copies_sent(top_k, groups, inside, per_expert=False)
    sent = np.asarray(work.num_tokens, dtype=np.float64) * work.row_bytes
    slowest = min(link.bandwidth_bytes_per_s for link in work.span.links)
    return np.maximum(sent * local / work.span.links[0].bandwidth_bytes_per_s, sent * across / slowest)
