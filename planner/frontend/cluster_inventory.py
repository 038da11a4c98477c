"""Nodes that an importer found to a cluster description: equal nodes grouped, their network as levels.

The result is a mapping as a YAML inventory holds it, so that what is imported can be read, edited and
parsed like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from hardware_profiles.loader import load_device, load_node
from hardware_profiles.schema import DeviceProfile, NodeProfile
from hardware_profiles.units import format_quantity
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.profile_lookup import profile_errors

Inventory = dict[str, object]

_OUTER_LEVELS = ("rack", "pod", "site")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportHints:
    """What the user adds because a format does not say it.

    `topology_labels` are keys of node labels from the nearest switch outwards.
    """

    device: str | None = None
    devices_per_node: int | None = None
    num_nodes: int | None = None
    network: str | None = None
    topology_labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundNode:
    """A node: its devices and where it hangs. `tiers` are switches from the nearest outwards."""

    name: str
    device: str
    num_devices: int
    host_memory_bytes: float | None = None
    tiers: tuple[str, ...] = ()
    domain: str = ""
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(slots=True, kw_only=True)
class _Group:
    """Nodes that will become one group of the description."""

    device: str
    num_devices: int
    domain_nodes: int
    nodes: list[FoundNode] = field(default_factory=list["FoundNode"])


def find_device(name: str, file: str, *, line: int | None = None) -> DeviceProfile:
    """Return the profile of a device as a foreign tool names it.

    Raises
    ------
    InputError
        If no profile has that name; `--device` is hinted at.
    """
    try:
        with profile_errors(file=file):
            return load_device(name)
    except InputError as error:
        raise InputError(
            f"{error.message}; say with --device which profile to use",
            file=file,
            line=line,
            value=name,
            hint=error.hint,
        ) from None


def inventory(
    nodes: list[FoundNode], name: str, hints: ImportHints, diagnostics: Diagnostics, *, file: str
) -> Inventory:
    """Return the description of all nodes.

    Raises
    ------
    InputError
        If there is no node with devices, or two nodes have one name.
    """
    if not nodes:
        raise InputError("no usable node with accelerators", file=file)
    twice = [node for node, count in Counter(node.name for node in nodes).items() if count > 1]
    if twice:
        raise InputError("a node stands twice", file=file, value=twice[0])
    groups = [_described(group, hints, diagnostics) for group in _grouped(nodes)]
    return {"name": name, "groups": groups}


def _grouped(nodes: list[FoundNode]) -> list[_Group]:
    domain_sizes = Counter((node.device, node.domain) for node in nodes if node.domain)
    groups: dict[tuple[str, int, int], _Group] = {}
    for node in nodes:
        size = domain_sizes[node.device, node.domain] if node.domain else 0
        key = (node.device, node.num_devices, size)
        group = groups.setdefault(
            key, _Group(device=node.device, num_devices=node.num_devices, domain_nodes=size)
        )
        group.nodes.append(node)
    for group in groups.values():
        group.nodes.sort(key=lambda node: (node.tiers[::-1], node.domain, node.name))
    return [groups[key] for key in sorted(groups)]


def _described(group: _Group, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
    device = load_device(group.device)
    node = load_node(device.default_node)
    described: Inventory = {
        "device": group.device,
        "nodes": len(group.nodes),
        "devices_per_node": group.num_devices,
    }
    memories = [n.host_memory_bytes for n in group.nodes if n.host_memory_bytes is not None]
    if memories:
        described["host_memory"] = format_quantity(min(memories), "bytes")
    levels = _levels(group, node, hints, diagnostics)
    if levels:
        described["levels"] = levels
    else:
        if group.domain_nodes:
            described["domain"] = {"devices": group.domain_nodes * group.num_devices}
        if hints.network is not None:
            described["network"] = hints.network
    described["node_names"] = [n.name for n in group.nodes]
    labels = _common_labels(group.nodes)
    if labels:
        described["labels"] = labels
    return described


def _common_labels(nodes: list[FoundNode]) -> dict[str, str]:
    common = set(nodes[0].labels).intersection(*(node.labels for node in nodes[1:]))
    return dict(sorted(common))


def _levels(
    group: _Group, node: NodeProfile, hints: ImportHints, diagnostics: Diagnostics
) -> list[Mapping[str, object]]:
    """Return the levels where switches split the nodes into equal parts; [] if there is none to state."""
    sizes = _tier_sizes(group, diagnostics)
    if not sizes:
        return []
    network = hints.network or node.network_link
    inner = _inner_levels(group, node)
    joined_nodes = max(1, int(str(inner[-1]["devices"])) // group.num_devices)
    outer: list[Mapping[str, object]] = []
    for size in sizes:
        if size > joined_nodes and size % joined_nodes == 0 and len(outer) < len(_OUTER_LEVELS) - 1:
            outer.append({"level": _OUTER_LEVELS[len(outer)], "nodes": size, "link": network})
            joined_nodes = size
    if not outer:
        return []
    if joined_nodes < len(group.nodes):
        outer.append({"level": _OUTER_LEVELS[len(outer)], "link": network})
    return [*inner, *outer]


def _inner_levels(group: _Group, node: NodeProfile) -> list[Mapping[str, object]]:
    per_node = group.num_devices
    domain = group.domain_nodes * per_node or min(node.scale_up_domain, per_node)
    while max(domain, per_node) % min(domain, per_node):
        domain -= 1
    levels: list[Mapping[str, object]] = []
    if domain > 1 or per_node == 1:
        levels.append({"level": "domain", "devices": domain, "link": node.scale_up_link})
    if domain < per_node:
        levels.append({"level": "node", "devices": per_node, "link": node.intra_node_link})
    return levels


def _tier_sizes(group: _Group, diagnostics: Diagnostics) -> list[int]:
    """Return how many nodes one switch of each tier joins, for tiers that split the group evenly."""
    num_tiers = min(len(node.tiers) for node in group.nodes)
    sizes: list[int] = []
    for tier in range(num_tiers):
        counts = Counter(node.tiers[tier:] for node in group.nodes)
        found = set(counts.values())
        if len(found) > 1:
            diagnostics.warn(
                "import-uneven-tier",
                f"{group.device}: switches of tier {tier} join {min(found)} to {max(found)} nodes; "
                f"the tier is left out, so that its nodes count as equally far apart",
            )
            continue
        size = found.pop()
        if size > 1 and (not sizes or size > sizes[-1]):
            sizes.append(size)
    return sizes
