"""The cluster: an inventory of devices in a hierarchy of links."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import DeviceProfile


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One level of the network, per device and direction.

    `bandwidth_bytes_per_s` is what one device can send when it sends alone;
    `oversubscription` divides it when all devices below the level send at once.
    """

    name: str
    kind: str
    latency_s: float
    bandwidth_bytes_per_s: float
    oversubscription: float = 1.0
    in_network_reduction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A level of the hierarchy: groups of `num_devices` devices joined by `link`.

    `name` is one of domain, node, rack, pod, site, wan.
    """

    name: str
    num_devices: int
    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Interchangeable nodes of one device kind.

    `levels` go from the innermost (the NVLink / xGMI domain, or the node where there is no such
    domain) outwards; each level's num_devices divides the next one's and the last is the whole group.
    `devices_per_node` counts devices that share a host. The price is None where unknown;
    `price_source` says whose it is. `node_kind` names the profile of the server. `host_memory_bytes_per_s` is
    the bandwidth of the memory of one host, None where nobody states it.
    """

    name: str
    device: DeviceProfile
    num_nodes: int
    devices_per_node: int
    levels: tuple[Level, ...]
    host_memory_bytes: float
    host_link: Link
    node_power_overhead_w: float
    usd_per_device_hour: float | None
    price_source: str = ""
    node_kind: str = ""
    node_names: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    host_memory_bytes_per_s: float | None = None

    @property
    def num_devices(self) -> int:
        """Devices in the group."""
        return self.num_nodes * self.devices_per_node

    def node_name(self, number: int) -> str:
        """Return the name of a node, by its number in the group."""
        names = self.node_names
        return names[number] if number < len(names) else f"{self.name}-{number}"

    @property
    def domain_size(self) -> int:
        """Devices joined by the innermost link, at most the group."""
        return min(self.levels[0].num_devices, self.num_devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLink:
    """The link between two node groups.

    `capacity_bytes_per_s` is what all devices together get over it, None where each pair of devices has
    a link of its own.
    """

    first: str
    second: str
    link: Link
    capacity_bytes_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLink:
    """What was measured between two nodes, per device, in the slower direction."""

    first: str
    second: str
    bandwidth_bytes_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Node groups and the links between them: `group_links` where stated, else `between_groups`.

    `measured` says what pairs of nodes really carry.
    """

    name: str
    groups: tuple[NodeGroup, ...]
    between_groups: Link | None = None
    group_links: tuple[GroupLink, ...] = ()
    measured: tuple[MeasuredLink, ...] = ()

    @property
    def num_devices(self) -> int:
        """Devices in the cluster."""
        return sum(group.num_devices for group in self.groups)

    def is_joined(self, first: str, second: str) -> bool:
        """Return whether a link joins two groups."""
        return self._stated(first, second) is not None or self.between_groups is not None

    def between(self, first: str, second: str) -> GroupLink:
        """Return the link between two groups.

        Raises
        ------
        KeyError
            If nothing joins them.
        """
        stated = self._stated(first, second)
        if stated is not None:
            return stated
        if self.between_groups is None:
            raise KeyError(f"nothing joins {first} and {second}")
        return GroupLink(first=first, second=second, link=self.between_groups)

    def slowest_between(self) -> Link | None:
        """Return the slowest link between any two groups, None where there are none or nothing joins them."""
        names = [group.name for group in self.groups]
        pairs = [(a, b) for at, a in enumerate(names) for b in names[:at]]
        links = [self.between(a, b).link for a, b in pairs if self.is_joined(a, b)]
        return min(links, key=lambda link: link.bandwidth_bytes_per_s / link.oversubscription, default=None)

    def _stated(self, first: str, second: str) -> GroupLink | None:
        return next((link for link in self.group_links if {link.first, link.second} == {first, second}), None)
