"""Clusters: the shorthand, a named cluster, or a YAML inventory, to the cluster IR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from hardware_profiles.cluster_file import MAX_DEVICES, ClusterFile, GroupEntry, LinkEntry
from hardware_profiles.loader import (
    ProfileKind,
    UnknownProfileError,
    find_profile,
    load_cluster_file,
    profile_names,
    validate_profile,
)
from hardware_profiles.profile_file import ProfileFile
from planner.diagnostics import Diagnostics
from planner.errors import InputError, nearest
from planner.frontend.cluster_groups import GroupContext, LoweredGroup, lower_group
from planner.frontend.cluster_links import Place, plain_link, slowest
from planner.frontend.cluster_measured import measured_links
from planner.frontend.cluster_prices import Prices
from planner.frontend.cluster_shorthand import ALLOWED, Part, split_shorthand
from planner.frontend.profile_lookup import profile_errors
from planner.frontend.yaml_source import KeyPath, read_document
from planner.ir.cluster import Cluster, GroupLink, Link

_MAX_NESTING = 4
_FILE_ENDINGS = (".yaml", ".yml", ".json")

Entries = list[tuple[GroupEntry, Place]]


def parse_cluster(
    described: object,
    *,
    source: str | None,
    diagnostics: Diagnostics,
    lines: Mapping[KeyPath, int] | None = None,
) -> Cluster:
    """Return the cluster that text or a mapping describes.

    Parameters
    ----------
    described
        The shorthand, the name of a cluster, the path of a YAML or JSON file, or a mapping as such a
        file holds.
    source
        The file that the description stands in, for messages and relative paths; None for a flag.
    diagnostics
        Takes what was filled in: nodes, adapters, prices, links between groups.
    lines
        Line of every value of a mapping by its path inside the mapping, for messages.

    Raises
    ------
    InputError
        If the description is wrong in any way.
    """
    with profile_errors(file=source):
        if isinstance(described, str):
            return _from_text(described.strip(), source, diagnostics)
        if not isinstance(described, Mapping):
            raise InputError(
                "a cluster is text or a table of groups", file=source, value=described, allowed=ALLOWED
            )
        data = {str(key): value for key, value in cast("Mapping[object, object]", described).items()}
        document = ProfileFile(file=source or "", data=data, lines=dict(lines or {}))
        parsed = validate_profile(ClusterFile, document)
        return _lower(parsed, Place(file=source, key=""), diagnostics)


def _from_text(text: str, source: str | None, diagnostics: Diagnostics) -> Cluster:
    if text.lower().endswith(_FILE_ENDINGS):
        return _from_path(text, source, diagnostics)
    parts = split_shorthand(text, file=source)
    name = "+".join(part.text for part in parts)
    parsed = ClusterFile.model_construct(name=name, groups=(GroupEntry.model_construct(shorthand=text),))
    return _lower(parsed, Place(file=source, key=""), diagnostics)


def _from_path(text: str, source: str | None, diagnostics: Diagnostics) -> Cluster:
    path = Path(text)
    if source is not None and not path.is_absolute():
        path = Path(source).parent / path
    document = read_document(path)
    if not isinstance(document.data, Mapping):
        raise InputError("a cluster file is a table of groups", file=str(path), line=1)
    data = cast("Mapping[str, object]", document.data)
    lines = document.lines
    if set(data) == {"cluster"}:
        inner = data["cluster"]
        lines = {key[1:]: line for key, line in lines.items() if key[:1] == ("cluster",)}
        if not isinstance(inner, Mapping):
            return parse_cluster(inner, source=str(path), diagnostics=diagnostics)
        data = cast("Mapping[str, object]", inner)
    named = data if "name" in data else {"name": path.stem, **data}
    return parse_cluster(named, source=str(path), diagnostics=diagnostics, lines=lines)


def _lower(described: ClusterFile, place: Place, diagnostics: Diagnostics) -> Cluster:
    context = GroupContext(
        prices=Prices.from_list(described.prices, place, diagnostics), diagnostics=diagnostics
    )
    entries: Entries = []
    for index, group in enumerate(described.groups):
        alone = len(described.groups) == 1 and group.shorthand is not None
        entries += _entries(group, place if alone else place.under(f"groups[{index}]"), 0)
    lowered = [one for entry, where in entries for one in lower_group(entry, where, context)]
    _check_total(lowered, place)
    groups = _with_unique_names(lowered, place)
    between = _between(described.between_groups, lowered, place, diagnostics)
    name = described.name or "+".join(f"{g.group.num_devices}x{g.group.device.name}" for g in groups)
    own = tuple(g.group for g in groups)
    return Cluster(
        name=name,
        groups=own,
        between_groups=between,
        group_links=_group_links(described, groups, place),
        measured=measured_links(described.measured_links, own, place),
    )


def _entries(group: GroupEntry, place: Place, depth: int) -> Entries:
    if group.shorthand is None:
        return [(group, place)]
    if depth > _MAX_NESTING:
        raise place.error("clusters that name each other")
    found: Entries = []
    for part in split_shorthand(group.shorthand, file=place.file):
        found += _part_entries(part, place, depth)
    return found


def _part_entries(part: Part, place: Place, depth: int) -> Entries:
    network = None
    if part.link is not None:
        network = LinkEntry(link=part.link, adapters=part.adapters)
    kind = _kind_of(part.name, place)
    if part.second is not None and kind != "devices":
        raise place.error(
            f"{part.name} already says how many devices a node has", value=part.text, allowed="one count"
        )
    if kind == "devices" and part.second is not None:
        return [
            (
                GroupEntry(
                    device=part.name,
                    nodes=part.first,
                    devices_per_node=_per_node(part, place),
                    network=network,
                ),
                place,
            )
        ]
    if kind == "devices":
        return [(GroupEntry(device=part.name, devices=part.first or 1, network=network), place)]
    if kind == "nodes":
        return [(GroupEntry(node=part.name, nodes=part.first or 1, network=network), place)]
    inner: Entries = []
    for group in load_cluster_file(part.name).groups:
        inner += _entries(group, place, depth + 1)
    return [(_times(entry, part.first or 1, network, place), where) for entry, where in inner]


def _per_node(part: Part, place: Place) -> int:
    if part.second is None or part.second > 1024:
        raise place.error(
            "too many devices in one node", value=part.text, allowed="NODESxDEVICES with up to 1024 devices"
        )
    return part.second


def _times(entry: GroupEntry, count: int, network: LinkEntry | None, place: Place) -> GroupEntry:
    """Return `count` times as many nodes, on another network if one is given."""
    if (entry.devices or entry.nodes or 1) * count > MAX_DEVICES:
        raise place.error("too many devices", value=count, allowed=f"at most {MAX_DEVICES}")
    changed: dict[str, object] = {}
    if entry.devices is not None:
        changed["devices"] = entry.devices * count
    else:
        changed["nodes"] = (entry.nodes or 1) * count
    if network is not None:
        changed["network"] = network
    return entry.model_copy(update=changed)


def _kind_of(name: str, place: Place) -> ProfileKind:
    kinds: tuple[ProfileKind, ...] = ("devices", "nodes", "clusters")
    for kind in kinds:
        try:
            find_profile(kind, name)
        except UnknownProfileError:
            continue
        return kind
    known = [known for kind in kinds for known in profile_names(kind)]
    close = nearest(name, known)
    raise place.error(
        "unknown device, node kind or cluster",
        value=name,
        allowed=", ".join(known),
        hint=f"Did you mean {close!r}?" if close else "See `newel profiles list`.",
    )


def _check_total(lowered: list[LoweredGroup], place: Place) -> None:
    total = sum(one.group.num_devices for one in lowered)
    if total > MAX_DEVICES:
        raise place.error("too many devices", value=total, allowed=f"at most {MAX_DEVICES}")


def _with_unique_names(lowered: list[LoweredGroup], place: Place) -> list[LoweredGroup]:
    """Return the groups with numbers on names that repeat; a node name may stand in one group only."""
    seen_nodes: set[str] = set()
    used: set[str] = set()
    result: list[LoweredGroup] = []
    for one in lowered:
        twice = seen_nodes.intersection(one.group.node_names)
        if twice:
            raise place.error("a node name stands in two groups", value=min(twice))
        seen_nodes.update(one.group.node_names)
        name, number = one.group.name, 2
        while name in used:
            name, number = f"{one.group.name}-{number}", number + 1
        used.add(name)
        result.append(replace(one, group=replace(one.group, name=name)))
    return result


def _group_links(described: ClusterFile, lowered: list[LoweredGroup], place: Place) -> tuple[GroupLink, ...]:
    """Return the links that are stated for single pairs of groups."""
    names = {one.group.name for one in lowered}
    found: list[GroupLink] = []
    for index, entry in enumerate(described.group_links):
        here = place.under(f"group_links[{index}]")
        first, second = entry.groups
        for name in entry.groups:
            if name not in names:
                raise here.under("groups").error(
                    "no such group",
                    value=name,
                    allowed=", ".join(sorted(names)),
                    hint="Give groups a `name`.",
                )
        if any({link.first, link.second} == {first, second} for link in found):
            raise here.under("groups").error("two links join the same groups", value=f"{first}, {second}")
        link = plain_link(entry, here)
        found.append(GroupLink(first=first, second=second, link=link, capacity_bytes_per_s=entry.capacity))
    return tuple(found)


def _between(
    entry: LinkEntry | None, lowered: list[LoweredGroup], place: Place, diagnostics: Diagnostics
) -> Link | None:
    if len(lowered) < 2:
        return None
    if entry is not None:
        return plain_link(entry, place.under("between_groups"))
    link = slowest([one.network for one in lowered])
    diagnostics.note(
        "cluster-between-groups",
        f"the groups are joined by {link.name}, the slowest of their networks (`between_groups` sets it)",
    )
    return link
