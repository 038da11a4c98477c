"""``rocm-smi --showtopo``: link types between the GPUs of one node.

Three matrices (Weight, Hops, Link Type), of which the link types count: hops are 1 for any xGMI pair,
also an indirect one.
"""

from __future__ import annotations

import re

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import ImportHints, Inventory, find_device

_TITLE = re.compile(r"=+\s*Link Type between two GPUs\s*=+")
_ROW = re.compile(r"GPU([0-9]{1,3})\s+(\S.*)")
_TYPES = {"0", "XGMI", "PCIE", "N/A"}


class RocmSmiShowtopo:
    """Reads the link types of one node."""

    def recognises(self, text: str) -> bool:
        """Return whether the text holds the matrix of link types."""
        return _TITLE.search(text) is not None

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return one group of nodes like this one."""
        types = _types(text, file)
        if hints.device is None:
            raise InputError(
                "the matrix does not say which GPU this is", file=file, hint="Add --device, e.g. mi300x."
            )
        device = find_device(hints.device, file)
        size = _domain(types, diagnostics)
        domain: Inventory = {"devices": size}
        if size > 1:
            domain["link"] = device.scale_up_link
        group: Inventory = {
            "device": device.name,
            "nodes": hints.num_nodes or 1,
            "devices_per_node": len(types),
            "domain": domain,
        }
        if hints.network is not None:
            group["network"] = hints.network
        return {"name": "imported", "groups": [group]}


def _types(text: str, file: str) -> list[list[str]]:
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _TITLE.search(line)), None)
    if start is None:
        raise InputError("the matrix of link types is missing", file=file)
    rows: list[list[str]] = []
    for number, line in enumerate(lines[start + 2 :], start=start + 3):
        match = _ROW.match(line)
        if match is None:
            break
        cells = match[2].split()
        if int(match[1]) != len(rows) or not set(cells) <= _TYPES:
            raise InputError("not a row of link types", file=file, line=number, value=line.strip()[:80])
        rows.append(cells)
    if not rows or any(len(row) != len(rows) for row in rows):
        raise InputError("the matrix of link types is not square", file=file, line=start + 1)
    return rows


def _domain(types: list[list[str]], diagnostics: Diagnostics) -> int:
    """Return the size of the groups in which every pair is joined by xGMI."""
    groups = {tuple(j for j, t in enumerate(row) if t == "XGMI" or j == i) for i, row in enumerate(types)}
    sizes = {len(group) for group in groups}
    if len(sizes) > 1 or sum(map(len, groups)) != len(types):
        diagnostics.warn("import-xgmi", "xGMI does not join groups of equal size; it is left out")
        return 1
    return sizes.pop()


IMPORTER = RocmSmiShowtopo()
