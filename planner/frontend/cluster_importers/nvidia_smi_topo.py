"""``nvidia-smi topo -m``: links between the GPUs and adapters of one node.

Layout: a header of GPUs, adapters (NICi, older drivers mlx5_i) and affinities, one row per GPU and
adapter, then a legend. NV# counts bonded NVLinks. Rows are split at runs of white space, so pasted
text with tabs turned to spaces reads the same; terminal escapes are dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hardware_profiles.loader import load_link
from hardware_profiles.schema import DeviceProfile
from hardware_profiles.units import format_quantity
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import ImportHints, Inventory, find_device

_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
_GPU = re.compile(r"GPU[0-9]+\Z")
_ADAPTER = re.compile(r"(?:NIC|mlx[0-9]+_|bnxt_re|irdma|roce|ib)[A-Za-z0-9_]*\Z")
_LINK = re.compile(r"(?:X|NV[0-9]{1,3}|PIX|PXB|PHB|NODE|SYS|PIXB|SOC)\Z")
# Bytes per second of one NVLink in one direction: 25 GB/s up to Hopper, 50 GB/s from Blackwell on.
_LANE_BYTES_PER_S = {"blackwell": 50e9}
_OLD_LANE_BYTES_PER_S = 25e9
_NEAR = {"PIX", "PXB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matrix:
    """Number of NVLinks between GPUs (0: none) and the adapters that are near a GPU."""

    links: tuple[tuple[int, ...], ...]
    num_adapters: int

    @property
    def num_devices(self) -> int:
        return len(self.links)


class NvidiaSmiTopo:
    """Reads the matrix of one node."""

    def recognises(self, text: str) -> bool:
        """Return whether the first line with text is the header of such a matrix."""
        first = next((line for line in _ESCAPE.sub("", text).splitlines() if line.strip()), "")
        return bool(re.match(r"\s*GPU0(?:\s|\Z)", first)) and "Weight" not in text[:400]

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return one group of nodes like this one."""
        matrix = _matrix(_ESCAPE.sub("", text), file)
        if hints.device is None:
            raise InputError(
                "the matrix does not say which GPU this is",
                file=file,
                hint=f"Add --device{_guess(matrix)}.",
            )
        device = find_device(hints.device, file)
        num_nodes = hints.num_nodes or 1
        group: Inventory = {
            "device": device.name,
            "nodes": num_nodes,
            "devices_per_node": matrix.num_devices,
        }
        group["domain"] = _domain(matrix, device, diagnostics)
        if matrix.num_adapters and hints.network is not None:
            group["network"] = {"link": hints.network, "adapters": matrix.num_adapters}
        elif hints.network is not None:
            group["network"] = hints.network
        elif matrix.num_adapters and num_nodes > 1:
            diagnostics.warn(
                "import-network",
                f"{matrix.num_adapters} adapters of unknown speed; the network is that of the usual node, "
                f"say --network",
            )
        mesh = _mesh(matrix)
        if mesh:
            group["labels"] = {"nvlinks": mesh}
        return {"name": "imported", "groups": [group]}


def _guess(matrix: _Matrix) -> str:
    most = max((max(row) for row in matrix.links), default=0)
    return {12: " a100", 18: " h100, h200, b200 or another with 18 links"}.get(most, " NAME")


def _matrix(text: str, file: str) -> _Matrix:
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), start=1)]
    lines = [(number, cells) for number, cells in lines if cells]
    if not lines:
        raise InputError("the file is empty", file=file)
    header = lines[0][1]
    gpus = [cell for cell in header if _GPU.match(cell)]
    adapters = [cell for cell in header[len(gpus) :] if _ADAPTER.match(cell)]
    if gpus != [f"GPU{i}" for i in range(len(gpus))] or not gpus or len(gpus) > 256:
        raise InputError("the header must name GPU0, GPU1, ...", file=file, line=lines[0][0])
    columns = len(gpus) + len(adapters)
    rows: dict[str, list[str]] = {}
    for number, cells in lines[1:]:
        if cells[0] in {*gpus, *adapters}:
            values = cells[1 : 1 + columns]
            if len(values) < columns or not all(_LINK.match(value) for value in values):
                raise InputError(
                    f"row {cells[0]} needs {columns} links",
                    file=file,
                    line=number,
                    allowed="X, NV#, PIX, PXB, PHB, NODE, SYS",
                )
            rows[cells[0]] = values
    missing = [name for name in gpus if name not in rows]
    if missing:
        raise InputError(f"the row of {missing[0]} is missing", file=file)
    links = tuple(tuple(_num_links(cell) for cell in rows[gpu][: len(gpus)]) for gpu in gpus)
    if any(links[i][j] != links[j][i] for i in range(len(gpus)) for j in range(i)):
        raise InputError("the matrix is not symmetric", file=file)
    near = [k for k in range(len(adapters)) if any(rows[gpu][len(gpus) + k] in _NEAR for gpu in gpus)]
    return _Matrix(links=links, num_adapters=len(near) or len(adapters))


def _num_links(cell: str) -> int:
    return int(cell[2:]) if cell.startswith("NV") else 0


def _components(links: tuple[tuple[int, ...], ...]) -> list[list[int]]:
    left, found = set(range(len(links))), list[list[int]]()
    while left:
        part, stack = set[int](), [min(left)]
        while stack:
            at = stack.pop()
            if at not in part:
                part.add(at)
                stack += [other for other, count in enumerate(links[at]) if count]
        found.append(sorted(part))
        left -= part
    return found


def _domain(matrix: _Matrix, device: DeviceProfile, diagnostics: Diagnostics) -> Inventory:
    """Return the NVLink domain: its size, and its bandwidth where it is not the device's usual one."""
    parts = _components(matrix.links)
    sizes = {len(part) for part in parts}
    if len(sizes) > 1:
        diagnostics.warn("import-nvlink", f"NVLink joins groups of unequal size {sorted(sizes)}; left out")
        return {"devices": 1}
    size = sizes.pop()
    if size == 1:
        return {"devices": 1}
    lane = _LANE_BYTES_PER_S.get(device.family, _OLD_LANE_BYTES_PER_S)
    usual = load_link(device.scale_up_link).bandwidth_bytes_per_s.value
    bandwidth = min(_switched_or_meshed(row, usual, lane) for row in matrix.links)
    domain: Inventory = {"devices": size, "link": device.scale_up_link}
    if abs(bandwidth - usual) > 0.01 * usual:
        domain["bandwidth"] = format_quantity(bandwidth, "bytes_per_s")
        diagnostics.note(
            "import-nvlink",
            f"NVLink carries {format_quantity(bandwidth, 'bytes_per_s')} per device and direction here, "
            f"{format_quantity(usual, 'bytes_per_s')} in the profile of {device.scale_up_link}",
        )
    if _mesh(matrix):
        diagnostics.warn(
            "import-nvlink-mesh", "pairs of GPUs have unequal numbers of NVLinks; the plan sees their sum"
        )
    return domain


def _switched_or_meshed(row: tuple[int, ...], usual: float, lane: float) -> float:
    """Return a device's NVLink rate: its links to a switch if the sum over peers is more than it has."""
    total = sum(row) * lane
    return max(row) * lane if total > usual * 1.01 else total


def _mesh(matrix: _Matrix) -> str:
    """Return the links pair by pair where pairs differ; "" where all linked pairs are equal."""
    pairs = [(i, j, row[j]) for i, row in enumerate(matrix.links) for j in range(i + 1, len(row)) if row[j]]
    if len({count for _, _, count in pairs}) <= 1:
        return ""
    text = " ".join(f"{i}-{j}x{count}" for i, j, count in pairs)
    return text if len(text) <= 256 else ""


IMPORTER = NvidiaSmiTopo()
