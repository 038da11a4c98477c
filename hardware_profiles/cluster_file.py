"""Schema of a cluster description: what a user writes, and the named clusters that are shipped.

A cluster is a list of groups of equal nodes. Whatever is left out comes from the profile of the node
kind; quantities are written with their units.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from hardware_profiles.errors import ProfileError
from hardware_profiles.schema import Source
from hardware_profiles.units import Dimension, parse_quantity

MAX_DEVICES = 1_000_000
MAX_GROUPS = 256
MAX_MEASURED_NODES = 512

LevelName = Literal["domain", "node", "rack", "pod", "site", "wan"]

_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}\Z")
_LABEL = re.compile(r"[ -~]{0,256}\Z")


def _quantity_in(dimension: Dimension, *, positive: bool) -> Callable[[object], object]:
    def parse(given: object) -> object:
        if given is None:
            return None
        try:
            value = parse_quantity(given, dimension)
        except ProfileError as error:
            raise ValueError(str(error)) from None
        if positive and value == 0:
            raise ValueError("must be more than 0")
        return value

    return parse


Bytes = Annotated[float, BeforeValidator(_quantity_in("bytes", positive=True))]
Bandwidth = Annotated[float, BeforeValidator(_quantity_in("bytes_per_s", positive=True))]
Seconds = Annotated[float, BeforeValidator(_quantity_in("time", positive=False))]
Watts = Annotated[float, BeforeValidator(_quantity_in("power", positive=False))]
UsdPerHour = Annotated[float, BeforeValidator(_quantity_in("usd_per_hour", positive=False))]
Count = Annotated[int, Field(ge=1, le=MAX_DEVICES, strict=True)]
Factor = Annotated[float, Field(ge=1, le=1000, allow_inf_nan=False)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LinkEntry(_Entry):
    """A link by name, or by latency and bandwidth per device; what is given overrides the profile.

    `oversubscription` divides the bandwidth when every device below sends at once; `adapters` counts the
    network adapters of one node.
    """

    link: str | None = None
    bandwidth: Bandwidth | None = None
    latency: Seconds | None = None
    oversubscription: Factor | None = None
    adapters: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    in_network_reduction: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: object) -> object:
        return {"link": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check(self) -> LinkEntry:
        if self.link is None and (self.bandwidth is None or self.latency is None):
            raise ValueError("a link needs its name (`link`), or both `bandwidth` and `latency`")
        return self


class LevelEntry(LinkEntry):
    """One level of the hierarchy: so many devices or nodes joined by a link (neither: the whole group)."""

    level: LevelName
    devices: Count | None = None
    nodes: Count | None = None

    @model_validator(mode="after")
    def _check_size(self) -> LevelEntry:
        if self.devices is not None and self.nodes is not None:
            raise ValueError("give `devices` or `nodes` of a level, not both")
        return self


class DomainEntry(LinkEntry):
    """The scale-up domain: how many devices, and the link that joins them."""

    devices: Count | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_size(cls, given: object) -> object:
        return {"devices": given} if isinstance(given, int) else given

    @model_validator(mode="after")
    def _check(self) -> DomainEntry:
        return self


class GroupEntry(_Entry):
    """Equal nodes: a `shorthand` (plain text will do), or exactly one of `device` and `node` and details."""

    shorthand: Annotated[str, Field(max_length=2000)] | None = None
    name: str | None = None
    device: str | None = None
    node: str | None = None
    nodes: Count | None = None
    devices_per_node: Annotated[int, Field(ge=1, le=1024, strict=True)] | None = None
    devices: Count | None = None
    domain: DomainEntry | None = None
    network: LinkEntry | None = None
    levels: tuple[LevelEntry, ...] | None = None
    price: UsdPerHour | None = None
    memory: Bytes | None = None
    memory_bandwidth: Bandwidth | None = None
    host_memory: Bytes | None = None
    host_memory_bandwidth: Bandwidth | None = None
    host_link: LinkEntry | None = None
    node_power_overhead: Watts | None = None
    node_names: Annotated[tuple[str, ...], Field(max_length=100_000)] = ()
    labels: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, given: object) -> object:
        return {"shorthand": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check(self) -> GroupEntry:
        if self.shorthand is not None:
            if self.model_fields_set != {"shorthand"}:
                raise ValueError("a shorthand stands alone; write `device` and `nodes` to add details")
            return self
        if (self.device is None) == (self.node is None):
            raise ValueError("give exactly one of `device` (an accelerator) and `node` (a kind of server)")
        if self.devices is not None and (self.nodes is not None or self.devices_per_node is not None):
            raise ValueError("give `devices`, or `nodes` and `devices_per_node`, not both")
        if self.levels is not None and (self.network is not None or self.domain is not None):
            raise ValueError("`levels` states every link; `network` and `domain` cannot stand beside it")
        if self.node_names and self.nodes is not None and len(self.node_names) != self.nodes:
            raise ValueError(f"{self.nodes} nodes but {len(self.node_names)} node_names")
        return self

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and not _HOST_NAME.match(value):
            raise ValueError("a group name has letters, digits, dots, dashes and underscores")
        return value

    @field_validator("node_names")
    @classmethod
    def _check_node_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not _HOST_NAME.match(name):
                raise ValueError(f"{name[:80]!r} is not a host name")
        if len(set(value)) != len(value):
            raise ValueError("a node name stands twice")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _check_labels(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        pairs = {str(k): v for k, v in cast("Mapping[object, object]", value).items()}
        for key, item in pairs.items():
            if not isinstance(item, str | int | float) or not _LABEL.match(key + str(item)):
                raise ValueError(f"label {key[:80]!r} must be one line of plain text")
        return {key: str(item) for key, item in pairs.items()}


class GroupLinkEntry(LinkEntry):
    """The link between two groups; `capacity` is what all devices together get over it."""

    groups: Annotated[tuple[str, ...], Field(min_length=2, max_length=2)]
    capacity: Bandwidth | None = None

    @model_validator(mode="after")
    def _check_groups(self) -> GroupLinkEntry:
        if len(set(self.groups)) != len(self.groups):
            raise ValueError("a link joins two different groups")
        return self


class MeasuredEntry(_Entry):
    """What was measured between nodes: one bandwidth for every pair of them, or a square matrix.

    Bandwidths are per device and direction. Of a matrix, row i column j is from node i to node j; the
    diagonal is not read, and pairs that were not measured are null.
    """

    nodes: Annotated[tuple[str, ...], Field(min_length=2, max_length=MAX_MEASURED_NODES)]
    bandwidth: Bandwidth | None = None
    matrix: tuple[tuple[Bandwidth | None, ...], ...] | None = None

    @model_validator(mode="after")
    def _check(self) -> MeasuredEntry:
        if (self.bandwidth is None) == (self.matrix is None):
            raise ValueError("give one `bandwidth`, or a `matrix` of them")
        if len(set(self.nodes)) != len(self.nodes):
            raise ValueError("a node stands twice")
        if self.matrix is not None:
            size = len(self.nodes)
            if len(self.matrix) != size or any(len(row) != size for row in self.matrix):
                raise ValueError(f"the matrix of {size} nodes has {size} rows of {size} columns")
        return self


class ClusterFile(_Entry):
    """A cluster: groups of nodes and the link between the groups.

    `between_groups` joins every two groups, `group_links` names what differs for single pairs of groups,
    `measured_links` what single pairs of nodes really carry. `prices` names the price list for devices
    without a price of their own, `sources` and `notes` are for shipped clusters and may be left out.
    """

    name: str | None = None
    aliases: tuple[str, ...] = ()
    groups: Annotated[tuple[GroupEntry, ...], Field(max_length=MAX_GROUPS)]
    between_groups: LinkEntry | None = None
    group_links: Annotated[tuple[GroupLinkEntry, ...], Field(max_length=10_000)] = ()
    measured_links: Annotated[tuple[MeasuredEntry, ...], Field(max_length=100_000)] = ()
    prices: str | None = None
    sources: dict[str, Source] = {}
    notes: str = ""

    @field_validator("groups")
    @classmethod
    def _check_groups(cls, value: tuple[GroupEntry, ...]) -> tuple[GroupEntry, ...]:
        if not value:
            raise ValueError("a cluster needs at least one group of nodes")
        return value

    @model_validator(mode="before")
    @classmethod
    def _from_one_group(cls, given: object) -> object:
        """Accept a single group without the list around it."""
        if not isinstance(given, Mapping):
            return given
        table = {str(k): v for k, v in cast("Mapping[object, object]", given).items()}
        if "groups" in table or not table.keys() & {"device", "node"}:
            return table
        own = ("aliases", "between_groups", "group_links", "prices", "sources", "notes")
        group = {key: value for key, value in table.items() if key not in own}
        return {"groups": [group], **{key: table[key] for key in ("name", *own) if key in table}}
