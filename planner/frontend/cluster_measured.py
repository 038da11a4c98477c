"""Links that were measured between single nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hardware_profiles.cluster_file import MeasuredEntry
from planner.errors import UnknownNameError
from planner.frontend.cluster_links import Place
from planner.ir.cluster import MeasuredLink, NodeGroup


def measured_links(
    entries: Sequence[MeasuredEntry], groups: Sequence[NodeGroup], place: Place
) -> tuple[MeasuredLink, ...]:
    """Return one link per measured pair, in the slower direction; later entries replace earlier ones.

    Raises
    ------
    InputError
        If a node is in no group.
    """
    if not entries:
        return ()
    known = {group.node_name(number) for group in groups for number in range(group.num_nodes)}
    found: dict[tuple[str, str], float] = {}
    for index, entry in enumerate(entries):
        for node in entry.nodes:
            if node not in known:
                error = UnknownNameError("node", node, sorted(known))
                where = place.under(f"measured_links[{index}]")
                raise where.error(error.message, value=node, allowed=error.allowed or "")
        own: dict[tuple[str, str], float] = {}
        for pair, bandwidth in _pairs(entry):
            own[pair] = min(bandwidth, own.get(pair, bandwidth))
        found |= own
    return tuple(
        MeasuredLink(first=first, second=second, bandwidth_bytes_per_s=bandwidth)
        for (first, second), bandwidth in sorted(found.items())
    )


def _pairs(entry: MeasuredEntry) -> Iterator[tuple[tuple[str, str], float]]:
    for row, first in enumerate(entry.nodes):
        for column, second in enumerate(entry.nodes):
            bandwidth = entry.bandwidth if entry.matrix is None else entry.matrix[row][column]
            if row != column and bandwidth is not None:
                yield (min(first, second), max(first, second)), bandwidth
