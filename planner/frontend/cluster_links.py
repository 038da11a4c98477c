"""Links of a cluster description to IR links: profiles, overrides, adapters shared by a node's devices."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.cluster_file import LinkEntry
from hardware_profiles.loader import load_link
from hardware_profiles.schema import NodeProfile
from planner.errors import InputError
from planner.frontend.profile_lookup import profile_errors
from planner.ir.cluster import Link

NETWORK_KINDS = frozenset({"infiniband", "ethernet"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an entry stands, for messages."""

    file: str | None
    key: str

    def under(self, key: str) -> Place:
        """Return the place of a key below this one."""
        return Place(file=self.file, key=f"{self.key}.{key}" if self.key else key)

    def error(self, message: str, *, value: object = ..., allowed: str = "", hint: str = "") -> InputError:
        """Return an error at this place."""
        return InputError(
            message,
            file=self.file,
            key=self.key or None,
            value=value,
            allowed=allowed or None,
            hint=hint or None,
        )


def plain_link(entry: LinkEntry, place: Place) -> Link:
    """Return a link whose bandwidth belongs to each device by itself.

    Raises
    ------
    InputError
        If the link is unknown.
    """
    oversubscription = entry.oversubscription or 1.0
    if entry.link is None:
        # A nameless link states both, as the schema checks.
        return Link(
            name="custom",
            kind="custom",
            latency_s=entry.latency or 0.0,
            bandwidth_bytes_per_s=entry.bandwidth or 0.0,
            oversubscription=oversubscription,
            in_network_reduction=bool(entry.in_network_reduction),
        )
    with profile_errors(file=place.file, key=place.under("link").key):
        profile = load_link(entry.link)
    reduces = entry.in_network_reduction
    return Link(
        name=profile.name,
        kind=profile.kind,
        latency_s=profile.latency_s.value if entry.latency is None else entry.latency,
        bandwidth_bytes_per_s=entry.bandwidth or profile.bandwidth_bytes_per_s.value,
        oversubscription=oversubscription,
        in_network_reduction=profile.in_network_reduction if reduces is None else reduces,
    )


def num_adapters(entry: LinkEntry | None, node: NodeProfile, devices_per_node: int) -> int:
    """Return how many network adapters a node of so many devices has.

    What the entry says; else one per device where it states a bandwidth; else the node kind's, fewer in
    proportion for a node that is not full.
    """
    if entry is not None and entry.adapters is not None:
        return entry.adapters
    if entry is not None and entry.bandwidth is not None:
        return devices_per_node
    share = node.num_network_links * devices_per_node / node.devices_per_node
    return max(1, int(min(float(node.num_network_links), share)))


def network_link(entry: LinkEntry, adapters: int, devices_per_node: int, place: Place) -> Link:
    """Return the network as one device sees it.

    A device that sends alone uses one adapter, or its share where there are more adapters than devices;
    when there are fewer, devices that send at once share them, which counts as oversubscription.

    Raises
    ------
    InputError
        If the link is unknown.
    """
    link = plain_link(entry, place)
    return Link(
        name=link.name,
        kind=link.kind,
        latency_s=link.latency_s,
        bandwidth_bytes_per_s=link.bandwidth_bytes_per_s * max(1.0, adapters / devices_per_node),
        oversubscription=link.oversubscription * max(1.0, devices_per_node / adapters),
        in_network_reduction=link.in_network_reduction,
    )


def slowest(links: list[Link]) -> Link:
    """Return the link that carries least when everything sends at once; the first of equals."""
    return min(links, key=lambda link: link.bandwidth_bytes_per_s / link.oversubscription)
