"""Slurm's topology: ``topology.conf``, ``topology.yaml`` or ``scontrol show topology``.

Trees of switches give the tiers of the network; blocks are NVLink domains for devices whose domain
spans nodes, and racks for others. Which accelerator the nodes hold must be said (``--device``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from hardware_profiles.loader import load_node
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import FoundNode, ImportHints, Inventory, find_device, inventory
from planner.frontend.host_lists import expand_hosts
from planner.frontend.yaml_source import parse_document

_FIRST_KEY = re.compile(r"^\s*(?:SwitchName|BlockName)=", re.I | re.M)
_PAIR = re.compile(r"([A-Za-z]+)=(\S+)")
_MAX_TIERS = 8


@dataclass(slots=True, kw_only=True)
class _Fabric:
    """Parents by child, for switches and nodes, and the block of each node."""

    parents: dict[str, str] = field(default_factory=dict[str, str])
    switches: set[str] = field(default_factory=set[str])
    nodes: list[str] = field(default_factory=list[str])
    blocks: dict[str, str] = field(default_factory=dict[str, str])

    def hang(self, children: tuple[str, ...], switch: str, *, nodes: bool) -> None:
        """Hang switches or nodes under a switch; the first switch that lists a node keeps it."""
        self.switches.add(switch)
        for child in children:
            if nodes and child not in self.parents:
                self.nodes.append(child)
            self.parents.setdefault(child, switch)

    def tiers(self, node: str, file: str) -> tuple[str, ...]:
        """Return the switches above a node, the nearest first."""
        found: list[str] = []
        at = self.parents.get(node)
        while at is not None:
            if len(found) >= _MAX_TIERS or at in found:
                raise InputError("switches hang in a circle or too deep", file=file, value=at)
            found.append(at)
            at = self.parents.get(at)
        return tuple(found)


class SlurmTopology:
    """Reads the topology in any of its three forms."""

    def recognises(self, text: str) -> bool:
        """Return whether the text names switches or blocks the way Slurm does."""
        return _FIRST_KEY.search(text) is not None or re.search(r"^\s*-?\s*topology:", text, re.M) is not None

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return the nodes of the topology as an inventory."""
        if hints.device is None:
            raise InputError(
                "a topology does not say which accelerators its nodes have", file=file, hint="Say --device."
            )
        device = find_device(hints.device, file)
        usual = load_node(device.default_node)
        count = hints.devices_per_node or usual.devices_per_node
        if hints.devices_per_node is None:
            diagnostics.note(
                "import-devices-per-node",
                f"{count} devices per node, as in {usual.name}; say --devices-per-node",
            )
        fabric = _Fabric()
        if _FIRST_KEY.search(text):
            _read_lines(text, file, fabric)
        else:
            _read_yaml(text, file, fabric, diagnostics)
        names = fabric.nodes or list(fabric.blocks)
        spans_nodes = usual.scale_up_domain > usual.devices_per_node
        found = [
            FoundNode(
                name=name,
                device=device.name,
                num_devices=count,
                tiers=_tiers(fabric, name, file, spans_nodes=spans_nodes),
                domain=fabric.blocks.get(name, "") if spans_nodes else "",
            )
            for name in names
        ]
        return inventory(found, "imported", hints, diagnostics, file=file)


def _tiers(fabric: _Fabric, node: str, file: str, *, spans_nodes: bool) -> tuple[str, ...]:
    tiers = fabric.tiers(node, file)
    block = fabric.blocks.get(node)
    return (block,) if block is not None and not tiers and not spans_nodes else tiers


def _read_lines(text: str, file: str, fabric: _Fabric) -> None:
    for number, line in enumerate(text.splitlines(), start=1):
        pairs = {key.lower(): value for key, value in _PAIR.findall(line.split("#", 1)[0])}
        if "switchname" in pairs:
            for switch in expand_hosts(pairs["switchname"], file=file, line=number):
                if "switches" in pairs:
                    fabric.hang(expand_hosts(pairs["switches"], file=file, line=number), switch, nodes=False)
                elif "nodes" in pairs:
                    fabric.hang(expand_hosts(pairs["nodes"], file=file, line=number), switch, nodes=True)
        elif "blockname" in pairs and "nodes" in pairs:
            for node in expand_hosts(pairs["nodes"], file=file, line=number):
                fabric.blocks[node] = pairs["blockname"]


def _read_yaml(text: str, file: str, fabric: _Fabric, diagnostics: Diagnostics) -> None:
    data = parse_document(text, file=file).data
    topologies = _mappings(data) or _mappings([data])
    if not topologies:
        raise InputError("no topology in the file", file=file)
    chosen = next((t for t in topologies if t.get("cluster_default") is True), topologies[0])
    if len(topologies) > 1:
        diagnostics.note(
            "import-topology", f"{len(topologies)} topologies in the file; read: {chosen.get('topology')}"
        )
    for table in _tables(chosen, "tree", "switches"):
        switch = str(table.get("switch", ""))
        for key, nodes in (("children", False), ("nodes", True)):
            if key in table:
                fabric.hang(expand_hosts(str(table[key]), file=file, line=None), switch, nodes=nodes)
    for table in _tables(chosen, "block", "blocks"):
        for node in expand_hosts(str(table.get("nodes", "")), file=file, line=None):
            fabric.blocks[node] = str(table.get("block", ""))


def _tables(topology: Mapping[str, object], kind: str, key: str) -> list[Mapping[str, object]]:
    inner = _mappings([topology.get(kind)])
    return _mappings(inner[0].get(key)) if inner else []


def _mappings(value: object) -> list[Mapping[str, object]]:
    """Return the tables in a list, nothing if it is no list."""
    rows = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Mapping[str, object]", row) for row in rows if isinstance(row, Mapping)]


IMPORTER = SlurmTopology()
