"""Time of collectives over one or several levels of the network.

Latencies of the levels add; their bandwidth terms overlap, since the levels are different wires and
large messages are pipelined through them (a p-norm, close to the slowest level).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import log2

import numpy as np

from cost_models.communication.fitted import LevelTerms, fitted_terms
from cost_models.cost import FloatArray
from cost_models.work import Collective, LinkSpec, Span

_OVERLAP_NORM = 4.0
_MAX_CHAIN = 7.0
"""Peers inside that a buffer passes one by one; larger domains are reduced by their switch (NVLS)."""
Constants = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelConstants:
    """Constants of one level of a span for one collective, and of its small-message kernel if any."""

    main: Constants
    small: Constants | None = None


def collective_time_s(work: Collective, constants: Callable[[str, LinkSpec], LevelConstants]) -> FloatArray:
    """Return seconds of a collective; `constants(op, link)` gives what was fitted on a link.

    all_reduce over levels reduces inside (in two halves, before and after; together they move what one
    all_reduce of the level moves, and use the same switch reduction) and outside on a shard of the buffer
    over the ranks inside; what crosses a level as well pays for protocols of higher latency (see
    `_crossing_s`). all_to_all sends over level l what leaves the group below it. p2p and broadcast run at
    the slowest level in between.

    Source: standard hierarchical algorithms (NCCL); alpha-beta with a mid-size term per level.
    """
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
    levels = [
        (ranks, link)
        for ranks, link in zip(work.span.ranks_per_level, work.span.links, strict=True)
        if ranks > 1
    ]
    if not levels:
        return np.zeros_like(num_bytes)
    if work.op in ("p2p", "broadcast"):
        terms = [_outermost(work, num_bytes, levels, constants)]
    elif work.op == "all_to_all":
        terms = _all_to_all(num_bytes, work.span, constants)
    else:
        terms = _reducing(work, num_bytes, levels, constants)
    latency_s = sum((term.latency_s for term in terms), np.zeros_like(num_bytes))
    wire_s = np.sum([term.wire_s**_OVERLAP_NORM for term in terms], axis=0) ** (1.0 / _OVERLAP_NORM)
    total = latency_s + wire_s
    if len(levels) == 1:
        small = constants(work.op, levels[0][1]).small
        if small is not None:
            alone = fitted_terms(work.op, num_bytes, levels[0][0], levels[0][1], small)
            total = np.minimum(total, alone.latency_s + alone.wire_s)
    return np.where(num_bytes > 0, total, 0.0)


def _reducing(
    work: Collective,
    num_bytes: FloatArray,
    levels: list[tuple[int, LinkSpec]],
    constants: Callable[[str, LinkSpec], LevelConstants],
) -> list[LevelTerms]:
    terms: list[LevelTerms] = []
    inside = 1
    for ranks, link in levels:
        shard = num_bytes / inside
        main = constants(work.op, link).main
        found = fitted_terms(work.op, shard, ranks, link, main)
        if inside > 1:
            more_s = _crossing_s(work.op, num_bytes, inside, ranks, link, main)
            found = LevelTerms(latency_s=found.latency_s + more_s, wire_s=found.wire_s)
        terms.append(found)
        inside *= ranks
    return terms


def _crossing_s(
    op: str, num_bytes: FloatArray, inside: int, ranks: int, link: LinkSpec, constants: Constants
) -> FloatArray:
    """Return what a buffer too large for the low-latency protocol adds, seconds, if it leaves a level.

    Small buffers travel with flags in the data (LL). Larger ones wait for whole chunks, at every peer
    inside and on every hop outside: `peer_s` per peer and `hop_ratio` latencies of the link per hop more,
    reached at `crossing_bytes` and growing with the square root until then.

    Source: latencies of LL, LL128 and Simple on NVLink and network in NCCL's tuning model
    (src/graph/tuning.cc): tree 2 ((ranks inside - 1) intra + log2(nodes) inter); checked against 32 B200
    over EFA (stas00/ml-engineering) and the model's own log of 24 H100 (NVIDIA/nccl issue 1453).
    """
    reach = constants.get("crossing_bytes", 0.0)
    if reach <= 0.0:
        return np.zeros_like(num_bytes)
    sweeps = 2.0 if op == "all_reduce" else 1.0
    peers = min(inside - 1.0, _MAX_CHAIN)
    hops = log2(max(ranks, 2.0))
    most_s = sweeps * (peers * constants["peer_s"] + hops * constants["hop_ratio"] * link.latency_s)
    return most_s * np.minimum(1.0, np.sqrt(num_bytes / reach))


def _all_to_all(
    num_bytes: FloatArray, span: Span, constants: Callable[[str, LinkSpec], LevelConstants]
) -> list[LevelTerms]:
    terms: list[LevelTerms] = []
    inside = 1
    for ranks, link in zip(span.ranks_per_level, span.links, strict=True):
        if ranks > 1:
            crossing = num_bytes * (span.num_ranks - inside) / span.num_ranks
            found = fitted_terms("all_to_all", num_bytes, ranks, link, constants("all_to_all", link).main)
            own_factor = (ranks - 1.0) / ranks
            ratio = crossing / np.maximum(num_bytes * own_factor, 1e-300)
            terms.append(LevelTerms(latency_s=found.latency_s, wire_s=found.wire_s * ratio))
        inside *= ranks
    return terms


def _outermost(
    work: Collective,
    num_bytes: FloatArray,
    levels: list[tuple[int, LinkSpec]],
    constants: Callable[[str, LinkSpec], LevelConstants],
) -> LevelTerms:
    slowest = min(levels, key=lambda level: level[1].bandwidth_bytes_per_s)
    ranks, link = (2, slowest[1]) if work.op == "p2p" else slowest
    found = fitted_terms(work.op, num_bytes, ranks, link, constants(work.op, link).main)
    slower = max(link.latency_s for _, link in levels) - link.latency_s
    return LevelTerms(latency_s=found.latency_s + max(0.0, slower), wire_s=found.wire_s)
