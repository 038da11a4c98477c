"""``scontrol show node``: accelerators, memory, state and switches of Slurm's nodes.

Records are separated by blank lines; values may hold spaces, so only the keys that matter are read.
Nodes that are down, drained, failing or do not answer are left out and named.
"""

from __future__ import annotations

import re

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import FoundNode, ImportHints, Inventory, find_device, inventory

_KEY = re.compile(r"(?:\A|\s)(NodeName|RealMemory|State|Gres|CfgTRES|Topology)=(\S*)")
_GRES = re.compile(r"gpu(?::(?P<type>[A-Za-z][\w.-]*))?:(?P<count>[0-9]{1,4})(?:\([^)]*\))?\Z")
_GONE = {
    "DOWN",
    "DRAIN",
    "DRAINED",
    "DRAINING",
    "FAIL",
    "FAILING",
    "NOT_RESPONDING",
    "POWERED_DOWN",
    "UNKNOWN",
}


class SlurmNodes:
    """Reads the records of ``scontrol show node``."""

    def recognises(self, text: str) -> bool:
        """Return whether the text begins with a record of a node."""
        return text.lstrip().startswith("NodeName=") and "State=" in text

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return the usable nodes as an inventory."""
        found: list[FoundNode] = []
        for line, record in _records(text):
            node = _node(record, line, file, hints, diagnostics)
            if node is not None:
                found.append(node)
        return inventory(found, "imported", hints, diagnostics, file=file)


def _records(text: str) -> list[tuple[int, dict[str, str]]]:
    records: list[tuple[int, dict[str, str]]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(r"\s*NodeName=", line):
            records.append((number, {}))
        if records:
            for key, value in _KEY.findall(line):
                records[-1][1].setdefault(key, value)
    return records


def _node(
    record: dict[str, str], line: int, file: str, hints: ImportHints, diagnostics: Diagnostics
) -> FoundNode | None:
    name = record["NodeName"]
    kind, count = _gres(record.get("Gres", ""))
    if count == 0:
        return None
    state = record.get("State", "")
    if "*" in state or _GONE & set(re.split(r"[+*]", state.upper())):
        diagnostics.warn("import-node-left-out", f"node {name} is left out: its state is {state}")
        return None
    wanted = hints.device or kind
    if not wanted:
        raise InputError(
            f"node {name} does not say which accelerator it has", file=file, line=line, hint="Say --device."
        )
    memory = record.get("RealMemory", "")
    switches = record.get("Topology", "").split(",")[0].split(":")[1:]
    return FoundNode(
        name=name,
        device=find_device(wanted, file, line=line).name,
        num_devices=count,
        host_memory_bytes=float(memory) * 2**20 if re.fullmatch(r"[0-9]{1,12}", memory) else None,
        tiers=tuple(reversed(switches)),
    )


def _gres(text: str) -> tuple[str, int]:
    """Return the type ("" if not stated) and number of GPUs; the first entry that names any."""
    for entry in re.split(r",(?![^()]*\))", text):
        if match := _GRES.match(entry):
            return match["type"] or "", int(match["count"])
    return "", 0


IMPORTER = SlurmNodes()
