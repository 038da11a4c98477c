"""The network as a group of placed devices sees it, read off where the plan puts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from cost_models.work import LinkSpec, Span
from planner.ir.cluster import Link, NodeGroup
from planner.plan.schema import Pool, Replica
from planner.verify.placing import device_of, position


def link_as_seen(link: Link) -> LinkSpec:
    """Return a link with its bandwidth divided by the oversubscription."""
    return LinkSpec(
        name=link.name,
        latency_s=link.latency_s,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / link.oversubscription,
        in_network_reduction=link.in_network_reduction,
        kind=link.kind,
    )


def span_at(positions: Sequence[int], group: NodeGroup) -> Span:
    """Return the span of the devices at `positions`: how many of them meet at each level."""
    ranks: list[int] = []
    links: list[LinkSpec] = []
    cells = set(positions)
    for index, level in enumerate(group.levels):
        size = group.levels[index - 1].num_devices if index else 1
        above: dict[int, set[int]] = {}
        for cell in cells:
            outer = cell * size // level.num_devices
            above.setdefault(outer, set()).add(cell)
        ranks.append(max(len(inside) for inside in above.values()))
        links.append(link_as_seen(level.link))
        cells = set(above)
        if len(cells) == 1:
            break
    ranks[-1] *= len(cells)
    return Span(ranks_per_level=tuple(ranks), links=tuple(links))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpans:
    """Groups of one replica, each as the worst placed one of its kind sees the network."""

    tensor: Span
    stage: Span
    ranks: Span
    context: Span
    decode_context: Span
    next_stage: Span | None


def replica_spans(pool: Pool, replica: Replica, group: NodeGroup) -> ReplicaSpans:
    """Return the widest span of each kind of group of a replica, as placed."""
    s = pool.strategy
    at = [position(d, group) for d in (device_of(t) for t in replica.devices) if d is not None]
    block = s.tp * s.attention_dp * s.cp
    stages = [at[i : i + block] for i in range(0, len(at), block)]

    def widest(groups: list[list[int]]) -> Span:
        return max((span_at(g, group) for g in groups), key=_width)

    tensor = [st[i : i + s.tp] for st in stages for i in range(0, block, s.tp)]
    strided = [st[i :: s.tp] for st in stages for i in range(s.tp)]
    inner = s.tp * s.cp
    context = [
        st[d * inner + i : (d + 1) * inner : s.tp]
        for st in stages
        for d in range(s.attention_dp)
        for i in range(s.tp)
    ]
    pairs = [[a, b] for before, after in pairwise(stages) for a, b in zip(before, after, strict=True)]
    return ReplicaSpans(
        tensor=widest(tensor),
        stage=widest(stages),
        ranks=widest(strided),
        context=widest(context),
        decode_context=widest([t[: s.decode_cp] for t in tensor]),
        next_stage=widest(pairs) if pairs else None,
    )


def _width(span: Span) -> tuple[int, int]:
    return len(span.ranks_per_level), span.ranks_per_level[-1]
