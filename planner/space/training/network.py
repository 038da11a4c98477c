"""Which links a group of ranks meets over, for ranks laid out tp fastest, then cp, dp, pp.

The order is Megatron-LM's default (tp-cp-ep-dp-pp): the axis that talks most sits on the
innermost links.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

from cost_models.work import LinkSpec, Span
from planner.ir.cluster import Level, Link, NodeGroup


def link_spec(link: Link, *, shared: bool) -> LinkSpec:
    """Return a link as cost models see it; `shared` when all devices below it send at once."""
    return LinkSpec(
        name=link.name,
        latency_s=link.latency_s,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / (link.oversubscription if shared else 1.0),
        in_network_reduction=link.in_network_reduction,
    )


@lru_cache(maxsize=4096)
def _spread(levels: tuple[Level, ...], stride: int, size: int) -> Span:
    ranks: list[int] = []
    links: list[LinkSpec] = []
    left = size
    per_group = stride
    for level in levels:
        here = max(1, min(left, level.num_devices // per_group))
        if here > 1 or not ranks:
            ranks.append(here)
            links.append(link_spec(level.link, shared=True))
        per_group = max(per_group, level.num_devices)
        left = ceil(left / here)
    if left > 1:
        outermost = levels[-1].link
        ranks.append(left)
        links.append(link_spec(outermost, shared=True))
    return Span(ranks_per_level=tuple(ranks), links=tuple(links))


def span_of(group: NodeGroup, *, stride: int, size: int) -> Span:
    """Return the span of `size` ranks that sit `stride` devices apart.

    Parameters
    ----------
    stride
        Devices between neighbouring ranks of the group (product of the faster axes).
    size
        Ranks in the group.
    """
    return _spread(group.levels, stride, size)


def hop_link(group: NodeGroup, *, stride: int) -> LinkSpec:
    """Return the link between two ranks `stride` devices apart (one pipeline hop)."""
    for level in group.levels:
        if level.num_devices > stride:
            return link_spec(level.link, shared=True)
    return link_spec(group.levels[-1].link, shared=True)
