"""One group of a cluster description to IR node groups.

Devices that do not fill whole nodes (12 devices in nodes of 8) become two groups: the full nodes and
one partly filled node. Nodes that do not fill whole rack-scale domains (20 trays, domains of 18)
become two groups likewise, so that every group has equal domains.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.cluster_file import MAX_DEVICES, GroupEntry, LevelEntry, LinkEntry
from hardware_profiles.loader import load_device, load_node, validate_profile
from hardware_profiles.profile_file import read_profile_file
from hardware_profiles.schema import DeviceProfile, Fact, NodeProfile, Source
from planner.diagnostics import Diagnostics
from planner.frontend.cluster_links import (
    NETWORK_KINDS,
    Place,
    network_link,
    num_adapters,
    plain_link,
)
from planner.frontend.cluster_prices import Prices
from planner.frontend.profile_lookup import profile_errors
from planner.ir.cluster import Level, Link, NodeGroup

_USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupContext:
    """What every group of one description shares."""

    prices: Prices
    diagnostics: Diagnostics


@dataclass(frozen=True, slots=True, kw_only=True)
class LoweredGroup:
    """A node group and its network, which a group of one node has no level for."""

    group: NodeGroup
    network: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """A device with the node kind that carries it."""

    device: DeviceProfile
    node: NodeProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Equal nodes; `partial` marks what did not fill a node or a domain."""

    num_nodes: int
    devices_per_node: int
    partial: bool = False

    @property
    def num_devices(self) -> int:
        return self.num_nodes * self.devices_per_node


def lower_group(entry: GroupEntry, place: Place, context: GroupContext) -> list[LoweredGroup]:
    """Return the node groups of one entry.

    Raises
    ------
    InputError
        If a profile is unknown, a count is out of range or the levels do not fit together.
    """
    kind = _kind(entry, place)
    blocks = _blocks(entry, kind, place, context.diagnostics)
    if sum(block.num_devices for block in blocks) > MAX_DEVICES:
        raise place.error("too many devices", allowed=f"at most {MAX_DEVICES}")
    if entry.levels is not None and len(blocks) > 1:
        raise place.error("devices do not fill whole nodes, so `levels` cannot describe them")
    lowered: list[LoweredGroup] = []
    first_node = 0
    for block in blocks:
        names = entry.node_names[first_node : first_node + block.num_nodes]
        first_node += block.num_nodes
        lowered.append(_lowered(entry, kind, block, names, place, context))
    return lowered


def _kind(entry: GroupEntry, place: Place) -> _Kind:
    if entry.node is not None:
        with profile_errors(file=place.file, key=place.under("node").key):
            node = load_node(entry.node)
            device = load_device(node.device)
    else:
        with profile_errors(file=place.file, key=place.under("device").key):
            device = _device(entry.device or "", place)
            node = load_node(device.default_node)
    return _Kind(device=_overridden(device, entry), node=node)


def _device(name: str, place: Place) -> DeviceProfile:
    """Return a device by name, or the one that a YAML file beside the description holds."""
    if not name.endswith((".yaml", ".yml")):
        return load_device(name)
    folder = Path(place.file).parent if place.file else Path()
    return validate_profile(DeviceProfile, read_profile_file(folder / name))


def _overridden(device: DeviceProfile, entry: GroupEntry) -> DeviceProfile:
    facts: dict[str, object] = {}
    if entry.memory is not None:
        facts |= {"memory_bytes": Fact(value=entry.memory, source=_USER), "driver_memory_bytes": None}
    if entry.memory_bandwidth is not None:
        facts["memory_bandwidth_bytes_per_s"] = Fact(value=entry.memory_bandwidth, source=_USER)
    if not facts:
        return device
    given = Source(title="Stated in the cluster description", url="", date="given", kind="assumption")
    return device.model_copy(update={**facts, "sources": {**device.sources, _USER: given}})


def _blocks(entry: GroupEntry, kind: _Kind, place: Place, diagnostics: Diagnostics) -> list[_Block]:
    if entry.devices is None:
        per_node = entry.devices_per_node or kind.node.devices_per_node
        nodes = entry.nodes or len(entry.node_names) or 1
        return _whole_domains(_Block(num_nodes=nodes, devices_per_node=per_node), entry, kind, diagnostics)
    per_node = kind.node.devices_per_node
    nodes, rest = divmod(entry.devices, per_node)
    if rest and nodes and kind.node.scale_up_domain > per_node:
        raise place.error(
            f"{kind.device.name} comes in nodes of {per_node}",
            value=entry.devices,
            allowed=f"multiples of {per_node}, or fewer than {per_node}",
        )
    if nodes + bool(rest) > 1:
        partial = f" and one with {rest}, a group of its own" if rest else ""
        diagnostics.note(
            "cluster-nodes",
            f"{entry.devices} x {kind.device.name}: {nodes} node{'s' if nodes > 1 else ''} "
            f"({kind.node.name}) of {per_node}{partial}; write NODESxDEVICES to say otherwise",
        )
    blocks: list[_Block] = []
    if nodes:
        whole = _Block(num_nodes=nodes, devices_per_node=per_node)
        blocks += _whole_domains(whole, entry, kind, diagnostics)
    if rest:
        blocks.append(_Block(num_nodes=1, devices_per_node=rest, partial=bool(nodes)))
    return blocks


def _whole_domains(block: _Block, entry: GroupEntry, kind: _Kind, diagnostics: Diagnostics) -> list[_Block]:
    """Split off the nodes that do not fill a rack-scale domain."""
    domain_nodes = _domain(entry, kind, block.devices_per_node) // block.devices_per_node
    if entry.levels is not None or domain_nodes <= 1 or block.num_nodes <= domain_nodes:
        return [block]
    rest = block.num_nodes % domain_nodes
    if not rest:
        return [block]
    diagnostics.note(
        "cluster-domains",
        f"{block.num_nodes} nodes of {kind.device.name} are {block.num_nodes // domain_nodes} x "
        f"{domain_nodes} in full domains and {rest} in another, a group of its own",
    )
    per_node = block.devices_per_node
    return [
        _Block(num_nodes=block.num_nodes - rest, devices_per_node=per_node),
        _Block(num_nodes=rest, devices_per_node=per_node, partial=True),
    ]


def _domain(entry: GroupEntry, kind: _Kind, per_node: int) -> int:
    """Return the size of a scale-up domain: a divisor or a multiple of the devices of a node."""
    stated = entry.domain.devices if entry.domain is not None else None
    size = stated or kind.node.scale_up_domain
    if size > kind.node.devices_per_node or stated:
        return max(size // per_node, 1) * per_node if size >= per_node else _divisor(per_node, size)
    if size == kind.node.devices_per_node:
        size = max(size, kind.device.scale_up_domain)
    return _divisor(per_node, min(size, per_node))


def _divisor(number: int, limit: int) -> int:
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


def _lowered(
    entry: GroupEntry, kind: _Kind, block: _Block, names: tuple[str, ...], place: Place, context: GroupContext
) -> LoweredGroup:
    levels, network = _levels(entry, kind, block, place, context.diagnostics)
    price, price_source = context.prices.of(kind.device.name, entry.price)
    host = entry.host_link or LinkEntry(link=kind.device.host_link)
    overhead = entry.node_power_overhead
    if overhead is None:
        overhead = _share_of_overhead(kind, block, context.diagnostics)
    group = NodeGroup(
        name=(entry.name or kind.device.name) + ("-rest" if block.partial else ""),
        device=kind.device,
        num_nodes=block.num_nodes,
        devices_per_node=block.devices_per_node,
        levels=levels,
        host_memory_bytes=entry.host_memory or kind.node.host_memory_bytes.value,
        host_link=plain_link(host, place.under("host_link")),
        node_power_overhead_w=overhead,
        usd_per_device_hour=price,
        price_source=price_source,
        node_kind=kind.node.name,
        node_names=names,
        labels=tuple(sorted(entry.labels.items())),
        host_memory_bytes_per_s=entry.host_memory_bandwidth or _host_bandwidth(kind.node),
    )
    return LoweredGroup(group=group, network=network)


def _host_bandwidth(node: NodeProfile) -> float | None:
    """Return the bandwidth of a host's memory, bytes per second; None where its profile does not state it."""
    stated = node.host_memory_bytes_per_s
    return None if stated is None else stated.value


def _share_of_overhead(kind: _Kind, block: _Block, diagnostics: Diagnostics) -> float:
    """Return what fans, CPUs and adapters of a node draw, watts: of a part of a server, that part."""
    whole = kind.node.power_overhead_w.value
    usual = kind.node.devices_per_node
    if block.devices_per_node >= usual:
        return whole
    diagnostics.note(
        "cluster-power",
        f"{block.devices_per_node} of the {usual} {kind.device.name} of a {kind.node.name} carry that share "
        f"of the {whole:g} W it draws besides them; node_power_overhead states another figure",
    )
    return whole * block.devices_per_node / usual


def _levels(
    entry: GroupEntry, kind: _Kind, block: _Block, place: Place, diagnostics: Diagnostics
) -> tuple[tuple[Level, ...], Link]:
    if entry.levels is not None:
        levels = _stated_levels(entry.levels, kind, block, place.under("levels"))
        return levels, levels[-1].link
    network = _network(entry, kind, block, place.under("network"), diagnostics)
    per_node, total = block.devices_per_node, block.num_devices
    domain = _domain(entry, kind, per_node)
    scale_up = LinkEntry(link=kind.node.scale_up_link)
    if entry.domain is not None and (entry.domain.link or entry.domain.bandwidth):
        scale_up = entry.domain
    levels = [
        Level(name="domain", num_devices=min(domain, total), link=plain_link(scale_up, place.under("domain")))
    ]
    if domain < per_node:
        inside = plain_link(LinkEntry(link=kind.node.intra_node_link), place)
        node_level = Level(name="node", num_devices=per_node, link=inside)
        levels = [node_level] if domain == 1 else [*levels, node_level]
    if total > levels[-1].num_devices:
        levels.append(Level(name="pod", num_devices=total, link=network))
    return tuple(levels), network


def _network(entry: GroupEntry, kind: _Kind, block: _Block, place: Place, diagnostics: Diagnostics) -> Link:
    stated = entry.network or LinkEntry(link=kind.node.network_link)
    if stated.link is None and stated.adapters is None and entry.network is None:
        raise place.error("the node kind states no network")
    per_node = block.devices_per_node
    adapters = num_adapters(entry.network, kind.node, per_node)
    link = network_link(stated, adapters, per_node, place)
    if link.kind not in NETWORK_KINDS and link.kind != "custom" and entry.network is not None:
        raise place.error(
            f"{link.name} does not join nodes",
            value=link.name,
            allowed="InfiniBand, RoCE, EFA or Ethernet links, e.g. ib400, roce400, eth100",
        )
    if block.num_nodes > 1 and adapters != per_node:
        diagnostics.note(
            "cluster-adapters",
            f"{kind.device.name}: {adapters} adapter{'s' if adapters > 1 else ''} of {link.name} serve the "
            f"{per_node} devices of a node",
        )
    return link


def _stated_levels(
    entries: tuple[LevelEntry, ...], kind: _Kind, block: _Block, place: Place
) -> tuple[Level, ...]:
    if not entries:
        raise place.error("a group needs at least one level")
    levels: list[Level] = []
    total, per_node = block.num_devices, block.devices_per_node
    for index, entry in enumerate(entries):
        here = Place(file=place.file, key=f"{place.key}[{index}]")
        size = entry.devices or (entry.nodes or block.num_nodes) * per_node
        inner = levels[-1].num_devices if levels else 1
        if levels and size <= inner:
            raise here.error(f"level of {size} devices is not larger than the one inside it, {inner}")
        if size > total:
            raise here.error(f"level of {size} devices exceeds the group", allowed=f"at most {total}")
        if size % inner or (size > per_node and size % per_node):
            raise here.error(f"{size} devices are no whole number of what is inside the level")
        adapters = num_adapters(entry, kind.node, per_node)
        across = size > per_node
        link = network_link(entry, adapters, per_node, here) if across else plain_link(entry, here)
        levels.append(Level(name=entry.level, num_devices=size, link=link))
    if levels[-1].num_devices != total:
        raise place.error(
            f"the levels join {levels[-1].num_devices} of {total} devices",
            hint="Leave `devices` and `nodes` of the last level out: it then joins the whole group.",
        )
    return tuple(levels)
