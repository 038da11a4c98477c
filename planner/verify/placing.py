"""Reads a placement: which device a text names, and where it lies in the levels of its group."""

from __future__ import annotations

import re
from dataclasses import dataclass

from planner.ir.cluster import NodeGroup

_DEVICE = re.compile(r"(?P<node>.+)/(?P<index>[0-9]{1,6})")
_LAST_NUMBER = re.compile(r"([0-9]{1,9})(?!.*[0-9])")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedDevice:
    """A device of a placement."""

    node: str
    index: int


def device_of(text: str) -> PlacedDevice | None:
    """Return the device that ``<node>/<index>`` names, None if the text has another form."""
    match = _DEVICE.fullmatch(text)
    if match is None:
        return None
    return PlacedDevice(node=match["node"], index=int(match["index"]))


def position(device: PlacedDevice, group: NodeGroup) -> int:
    """Return the number of a device within its group, node by node.

    Nodes count in the order of the group's names, by the last number in their names where it has none.
    """
    if device.node in group.node_names:
        node = group.node_names.index(device.node)
    else:
        match = _LAST_NUMBER.search(device.node)
        node = int(match[1]) if match else 0
    return node * group.devices_per_node + device.index
