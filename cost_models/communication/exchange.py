"""Time of dispatch and combine around routed experts: one half of an exchange of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

import numpy as np

from cost_models.cost import FloatArray
from cost_models.work import TokenExchange

KERNELS = ("normal", "low_latency", "nvlink_one_sided", "nvlink_two_sided")
_OVERLAP_NORM = 4.0


def copies_sent(
    top_k: FloatArray, groups: float, inside: float, *, per_expert: bool
) -> tuple[FloatArray, FloatArray]:
    """Return copies of one token that travel inside nodes and between them.

    Experts are chosen independently and evenly over `groups` nodes of `inside` devices. `per_expert` kernels
    send one copy per chosen expert straight to its device; others send one per node that holds any, and
    inside nodes one per device.

    Source: occupancy of independent draws; the two modes of DeepEP's documentation.
    """
    ranks = groups * inside
    if per_expert:
        return top_k * (1.0 / groups - 1.0 / ranks), top_k * (1.0 - 1.0 / groups)
    local = (ranks - 1.0) * -np.expm1(top_k * np.log1p(-1.0 / ranks))
    across = (
        (groups - 1.0) * -np.expm1(top_k * np.log1p(-1.0 / groups)) if groups > 1 else np.zeros_like(top_k)
    )
    return local, across


def exchange_time_s(work: TokenExchange, constants: Mapping[str, float]) -> FloatArray:
    """Return seconds of one half of an exchange.

    t = launch + ranks peer + start + T token + mid min(1, sqrt(B / mid_bytes)) + the p-norm of
    B_in / (scale-up bandwidth eff) and B_out / (network bandwidth network_eff), with B bytes sent per device
    and start = network_s (1 + log2 nodes) where the exchange leaves a node.

    Source: own form over public DeepEP and NVLink all-to-all tables; constants as the curve's source says.
    """
    tokens, top_k, row_bytes = (
        np.asarray(x, dtype=np.float64) for x in (work.num_tokens, work.top_k, work.row_bytes)
    )
    inside, groups = float(work.span.ranks_per_level[0]), 1.0
    for ranks in work.span.ranks_per_level[1:]:
        groups *= ranks
    if inside * groups <= 1.0:
        return np.zeros_like(tokens * top_k * row_bytes)
    local, across = copies_sent(top_k, groups, inside, per_expert=work.kernel == "low_latency")
    sent = tokens * row_bytes
    wires = (sent * local / (work.span.links[0].bandwidth_bytes_per_s * constants["eff"])) ** _OVERLAP_NORM
    start_s = constants["launch_s"] + inside * groups * constants["peer_s"]
    if groups > 1.0:
        link = min(work.span.links[1:], key=lambda found: found.bandwidth_bytes_per_s)
        rate = link.bandwidth_bytes_per_s * constants["network_eff"]
        wires = wires + (sent * across / rate) ** _OVERLAP_NORM
        start_s += constants["network_s"] * (1.0 + log2(groups))
    filled = np.minimum(1.0, np.sqrt(sent * (local + across) / constants["mid_bytes"]))
    total = start_s + tokens * constants["token_s"] + constants["mid_s"] * filled
    return np.where(tokens > 0, total + wires ** (1.0 / _OVERLAP_NORM), 0.0)
