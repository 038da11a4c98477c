"""Groups of devices over the levels of a node group, as collectives see them."""

from __future__ import annotations

from cost_models.work import LinkSpec, Span
from planner.ir.cluster import Link, NodeGroup


def link_spec(link: Link, *, shared: bool = True) -> LinkSpec:
    """Return the link as a collective sees it; `shared` applies the oversubscription."""
    return LinkSpec(
        name=link.name,
        latency_s=link.latency_s,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / (link.oversubscription if shared else 1.0),
        in_network_reduction=link.in_network_reduction,
        kind=link.kind,
    )


def span_of(group: NodeGroup, num_ranks: int, stride: int = 1) -> Span:
    """Return the span of `num_ranks` devices that are `stride` apart and start at a level's boundary.

    A stride larger than 1 leaves fewer members inside each level (data-parallel ranks of tensor groups).
    """
    ranks: list[int] = []
    links: list[LinkSpec] = []
    left, below = num_ranks, max(1, stride)
    for level in group.levels:
        inside = max(1, min(left, level.num_devices // below))
        ranks.append(inside)
        links.append(link_spec(level.link))
        left = -(-left // inside)
        below = max(below, level.num_devices)
        if left <= 1:
            break
    if left > 1:
        ranks[-1] *= left
    return Span(ranks_per_level=tuple(ranks), links=tuple(links))
