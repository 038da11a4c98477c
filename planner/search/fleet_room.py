"""Room for replicas: how the devices of a group fall into scale-up slots, and which demands fit them.

Slots are powers of two (a stage of 6 takes a slot of 8) up to the scale-up domain, then whole domains.
Since each size divides the next, demands fit if and only if, for every size s, the slots of size s and
more fit into what the domains hold in whole slots of s (first fit, largest first, finds the packing).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetProblem

RACK = "rack"
JOINT = 0
"""What stands for the size of failure domains that nodes of several groups share."""


def units_of(num_devices: int, domain_size: int) -> tuple[int, ...]:
    """Return the slots that a replica of so many devices takes: whole domains, then one slot for the rest."""
    whole, rest = divmod(num_devices, domain_size)
    slots = [domain_size] * whole
    if rest:
        slots.append(min(domain_size, 1 << (rest - 1).bit_length()))
    return tuple(slots)


def fills_slots(num_devices: int, domain_size: int) -> bool:
    """Return whether a replica leaves nothing of its scale-up slots unused."""
    return sum(units_of(num_devices, domain_size)) == num_devices


def device_power_w(group: NodeGroup) -> float:
    """Return the power provisioned for one device: its rating and its share of the node's overhead."""
    return group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node


def cell_devices(group: NodeGroup, domain: str, problem: FleetProblem) -> int:
    """Return the devices of one failure domain of a group: node, rack, pod, site or power (JOINT if shared).

    Raises
    ------
    InputError
        If the inventory does not say how large such a domain is.
    """
    if domain == "node":
        return group.devices_per_node
    if domain == "power" and problem.power_domains:
        return JOINT
    if domain == "power" and problem.power_domain_nodes:
        return group.devices_per_node * problem.power_domain_nodes
    for level in group.levels:
        if level.name == domain:
            return max(level.num_devices, group.devices_per_node)
    raise InputError(
        f"group {group.name} does not say what its {domain}s are",
        key="availability.of" if domain != RACK else "rack_power",
        value=domain,
        hint=f"Give the group a level `{domain}` (or power_domains), or use node.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a group offers: for each of its scale-up domains the devices (by number) that may be used."""

    group: NodeGroup
    usable: tuple[tuple[int, ...], ...]

    @property
    def num_devices(self) -> int:
        """Usable devices."""
        return sum(len(devices) for devices in self.usable)

    def num_cells(self, cell: int) -> int:
        """Return how many cells of so many devices have any that may be used."""
        return len({device // cell for devices in self.usable for device in devices})

    def slots(self, sizes: Iterable[int]) -> dict[int, int]:
        """Return, for each size s, the devices that lie in whole slots of s."""
        counts = Counter(len(devices) for devices in self.usable)
        return {s: s * sum((u // s) * n for u, n in counts.items()) for s in sizes}

    def binding_sizes(self, sizes: Iterable[int]) -> dict[int, int]:
        """Return the sizes whose limit a smaller size does not imply, with the limit in devices."""
        found: dict[int, int] = {}
        least: int | None = None
        for size, devices in sorted(self.slots({1, *sizes}).items()):
            if least is None or devices < least:
                found[size] = devices
                least = devices
        return found


def rooms_of(groups: Sequence[NodeGroup], problem: FleetProblem) -> tuple[Room, ...]:
    """Return the room of every group under lost nodes and caps on power.

    Under a cap, racks fill node by node: whole nodes first leave the largest slots.
    """
    lost = frozenset(problem.lost_nodes)
    return tuple(Room(group=group, usable=_usable(group, problem, lost)) for group in groups)


def node_name(group: NodeGroup, node: int) -> str:
    """Return the name of a node of a group."""
    return group.node_name(node)


def _usable(group: NodeGroup, problem: FleetProblem, lost: frozenset[str]) -> tuple[tuple[int, ...], ...]:
    per_node, domain = group.devices_per_node, group.domain_size
    caps = _caps(group, problem)
    used: dict[tuple[int, int], int] = {}
    free: list[list[int]] = [[] for _ in range(-(-group.num_devices // domain))]
    for node in range(group.num_nodes):
        room = 0 if node_name(group, node) in lost else per_node
        for number, (cell, most) in enumerate(caps):
            at = (number, node * per_node // cell)
            room = min(room, most - used.get(at, 0))
        for number, (cell, _) in enumerate(caps):
            at = (number, node * per_node // cell)
            used[at] = used.get(at, 0) + room
        for device in range(node * per_node, node * per_node + room):
            free[device // domain].append(device)
    return tuple(tuple(devices) for devices in free)


def _caps(group: NodeGroup, problem: FleetProblem) -> list[tuple[int, int]]:
    """Return (devices of a cell, devices that its cap allows) for racks and power domains."""
    power = device_power_w(group)
    found: list[tuple[int, int]] = []
    for domain, cap in ((RACK, problem.rack_cap_w), ("power", problem.power_domain_cap_w)):
        if cap is not None:
            found.append((cell_devices(group, domain, problem), int(cap / power + 1e-9)))
    return found
