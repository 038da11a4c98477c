"""Time of collectives over one or several levels of the network.

Latencies of the levels add and the launch is paid once; their bandwidth terms overlap, since the levels
are different wires and large messages are pipelined through them (a p-norm, close to the slowest level).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cost_models.communication.fitted import LevelTerms, fitted_terms
from cost_models.communication.network import network_terms
from cost_models.cost import FloatArray
from cost_models.work import Collective, LinkSpec, Span

_OVERLAP_NORM = 4.0
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
    over the ranks inside; between nodes it pays for hops of adapters (`network_terms`). all_to_all sends over
    level l what leaves the group below it. p2p and broadcast run at the slowest level in between.

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
    latency_s = sum((term.latency_s for term in terms), np.zeros_like(num_bytes)) + terms[0].launch_s
    wire_s = np.sum([term.wire_s**_OVERLAP_NORM for term in terms], axis=0) ** (1.0 / _OVERLAP_NORM)
    total = latency_s + wire_s
    if len(levels) == 1:
        small = constants(work.op, levels[0][1]).small
        if small is not None:
            alone = fitted_terms(work.op, num_bytes, levels[0][0], levels[0][1], small)
            total = np.minimum(total, alone.latency_s + alone.wire_s + alone.launch_s)
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
        terms.append(_terms(work.op, shard, (ranks, inside), link, constants(work.op, link).main))
        inside *= ranks
    return terms


def _all_to_all(
    num_bytes: FloatArray, span: Span, constants: Callable[[str, LinkSpec], LevelConstants]
) -> list[LevelTerms]:
    terms: list[LevelTerms] = []
    inside = 1
    for ranks, link in zip(span.ranks_per_level, span.links, strict=True):
        if ranks > 1:
            crossing = num_bytes * (span.num_ranks - inside) / span.num_ranks
            main = constants("all_to_all", link).main
            found = _terms("all_to_all", num_bytes, (ranks, inside), link, main)
            own_factor = (ranks - 1.0) / ranks
            ratio = crossing / np.maximum(num_bytes * own_factor, 1e-300)
            terms.append(
                LevelTerms(latency_s=found.latency_s, wire_s=found.wire_s * ratio, launch_s=found.launch_s)
            )
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
    found = _terms(work.op, num_bytes, (ranks, 1), link, constants(work.op, link).main)
    slower = max(link.latency_s for _, link in levels) - link.latency_s
    return LevelTerms(
        latency_s=found.latency_s + max(0.0, slower), wire_s=found.wire_s, launch_s=found.launch_s
    )


def _terms(
    op: str, num_bytes: FloatArray, size: tuple[int, int], link: LinkSpec, constants: Constants
) -> LevelTerms:
    """Return the terms of one level; `size` is the groups that meet there and the devices inside each."""
    groups, inside = size
    if "hop_mid_s" in constants:
        return network_terms(op, num_bytes, groups, inside, link, constants)
    return fitted_terms(op, num_bytes, groups, link, constants)
