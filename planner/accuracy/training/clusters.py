"""The cluster of a published training run, from the words of its device and interconnect cells."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import ceil

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_link, load_node
from hardware_profiles.schema import DeviceProfile, Fact, Source
from planner.accuracy.devices import find_device
from planner.accuracy.training.rows import RowError, TrainingRow
from planner.ir.cluster import Level, Link, NodeGroup

_CHIP = re.compile(
    r"(gb300|gb200|b300|b200|gh200|h200|h100|h800|h20|a100|a800|v100|l40s|l40|a40|a10g|a10|mi\d{3}x?|"
    r"tpu[ -]?v\d+[ep]?|rtx[ -]?\d{4}|gaudi ?\d|910[bc])"
)
_CHIP_ALIASES = {
    "a800": "a100",
    "mi250": "mi250x",
    "mi300": "mi300x",
    "910b": "ascend-910b",
    "910c": "ascend-910c",
}
_POWER_EXPONENT = 0.5
"""Time of compute-bound kernels over the inverse of a power cap. Source: H100 held at 500 W against an H200
at 700 W under one stack (torchtitan reports of 2024-12 and 2025-06): times 1.18 apart, the root of the
powers."""
_MOST_UNSTATED_BYTES_PER_S = 400e9 / 8.0
"""Most that an adapter of a run counts for whose network is not stated. Source: with experts over eight nodes
GPT-OSS-120B takes as long on DGX B300 (adapters of 800 Gb/s) as on DGX B200 (400 Gb/s), 9.8 and 10.2 s
(Megatron-Bridge performance summary, container 26.02)."""
_SPEED = re.compile(
    r"(?:(\d+)\s*[x×]\s*)?(\d+(?:\.\d+)?)\s*(GB/s|GBps|Gb/s|Gbps|Gbit/s|gb/s|gbps|Gbit|Gb\b|G\b)"
)
_FABRICS = (
    (r"omni-?path|\bopa\b", "opa", (100, 400)),
    (r"slingshot", "slingshot", (200, 400)),
    (r"\befa\b", "efa", (100, 200, 400)),
    (r"roce|rdma|cx-\d", "roce", (100, 200, 400, 800)),
    (r"ethernet|\beth\b", "eth", (10, 25, 40, 50, 100, 200, 400, 800)),
    (r"infiniband|\bib\b|hdr|ndr|edr", "ib", (100, 200, 400, 800)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCluster:
    """The devices of a run; `slower` multiplies compute times (a power cap), `notes` say what was assumed."""

    group: NodeGroup
    slower: float
    notes: tuple[str, ...]


def cluster_of(row: TrainingRow) -> RunCluster:
    """Return the cluster that a row ran on.

    Raises
    ------
    RowError
        If the device is unknown.
    """
    text = row.text("gpu_type")
    device = _device(text)
    slower = 1.0
    capped = re.search(r"(\d{3,4})\s*w\b", text.lower())
    if capped is not None and float(capped.group(1)) < device.tdp_w.value:
        slower = (device.tdp_w.value / float(capped.group(1))) ** _POWER_EXPONENT
    levels, per_node, notes = _levels(row, device)
    host = _link(device.host_link)
    group = NodeGroup(
        name=device.name,
        device=device,
        num_nodes=ceil(row.gpus / per_node),
        devices_per_node=per_node,
        levels=levels,
        host_memory_bytes=2e12,
        host_link=host,
        node_power_overhead_w=0.0,
        usd_per_device_hour=None,
        host_memory_bytes_per_s=_host_memory(device),
    )
    return RunCluster(group=group, slower=slower, notes=notes)


def _host_memory(device: DeviceProfile) -> float | None:
    stated = load_node(device.default_node).host_memory_bytes_per_s
    return None if stated is None else stated.value


def _device(text: str) -> DeviceProfile:
    lower = text.lower()
    chip = _CHIP.search(lower)
    if chip is None:
        raise RowError(f"no device profile is called {text[:60]!r}")
    name = re.sub(r"[ ]", "-", chip.group(1))
    name = _CHIP_ALIASES.get(name, name)
    memory = re.search(r"(\d{2,3})\s*gi?b", lower)
    variants = [name]
    if memory is not None:
        variants.insert(0, f"{name}-{memory.group(1)}gb")
    if "pcie" in lower:
        variants.insert(0, f"{name}-pcie")
    if "nvl" in lower and "nvl7" not in lower:
        variants.insert(0, f"{name}-nvl")
    found = next((device for one in variants if (device := find_device(one)) is not None), None)
    if found is None:
        raise RowError(f"no device profile is called {text[:60]!r}")
    return _overridden(found, lower)


def _overridden(device: DeviceProfile, text: str) -> DeviceProfile:
    """Return the device with the memory and bandwidth that the cell states, where they differ."""
    facts: dict[str, Fact] = {}
    memory = re.search(r"(\d{2,3})\s*gi?b\b", text)
    if memory is not None and abs(float(memory.group(1)) * 1e9 / device.memory_bytes.value - 1.0) > 0.1:
        nominal = float(memory.group(1)) * 1e9
        facts["memory_bytes"] = Fact(value=nominal, source="cell")
        if device.driver_memory_bytes is not None:  # what the driver reports of a nominal gigabyte
            share = device.driver_memory_bytes.value / device.memory_bytes.value
            facts["driver_memory_bytes"] = Fact(value=nominal * share, source="cell")
    bandwidth = re.search(r"([\d.]+)\s*tb/s", text)
    if bandwidth is not None:
        facts["memory_bandwidth_bytes_per_s"] = Fact(value=float(bandwidth.group(1)) * 1e12, source="cell")
    if not facts:
        return device
    stated = Source(title="Stated in the row", url="", date="given", kind="assumption")
    update: dict[str, object] = {**facts, "sources": {**device.sources, "cell": stated}}
    return device.model_copy(update=update)


def _levels(row: TrainingRow, device: DeviceProfile) -> tuple[tuple[Level, ...], int, tuple[str, ...]]:
    """Return the levels of the network, the devices of a node, and what was assumed."""
    words = row.text("interconnect")
    text = words.lower()
    try:
        node = load_node(device.default_node)
    except ProfileError:
        raise RowError(f"{device.name} has no node profile") from None
    stated = re.search(r"(\d+)\s*(?:x\s*)?gpus?\s*(?:/|per)\s*node", text)
    per_node = int(stated.group(1)) if stated else node.devices_per_node
    rack = re.search(r"nvl(\d+)", text)
    domain = int(rack.group(1)) if rack else max(node.scale_up_domain, 1)
    if domain <= node.devices_per_node:  # inside the server, which may have fewer devices than usual
        domain = min(domain, per_node)
    inner = _link(device.scale_up_link if domain > 1 else node.intra_node_link)
    if "pcie" in text and "nvlink" not in text:
        inner = _link("pcie4")
    levels = [Level(name="domain", num_devices=min(domain, row.gpus) if domain > 1 else per_node, link=inner)]
    notes: list[str] = []
    if row.gpus > levels[0].num_devices:
        network, told = _network(words, node.network_link, node.num_network_links, per_node)
        if not told:
            notes.append(f"network not stated: {network.name} of {node.name} assumed")
        total = ceil(row.gpus / levels[0].num_devices) * levels[0].num_devices
        levels.append(Level(name="network", num_devices=total, link=network))
    return tuple(levels), per_node, tuple(notes)


def _network(text: str, usual: str, adapters: int, per_node: int) -> tuple[Link, bool]:
    """Return one device's share of the network between nodes, and whether the row states it."""
    base = _link(usual)
    found = _speed(text)
    fabric = next(((name, speeds) for sign, name, speeds in _FABRICS if re.search(sign, text.lower())), None)
    if fabric is not None:
        name, speeds = fabric
        wanted = found.gigabits if found is not None else base.bandwidth_bytes_per_s * 8e-9
        base = _link(f"{name}{min(speeds, key=lambda speed: abs(speed - wanted))}")
    if found is None:
        reached = min(base.bandwidth_bytes_per_s, _MOST_UNSTATED_BYTES_PER_S)
        return replace(base, bandwidth_bytes_per_s=reached * adapters / per_node), False
    adapters = found.adapters if found.adapters is not None else 1
    bytes_per_s = found.gigabits * adapters * 1e9 / 8.0 / (per_node if found.of_node else 1)
    return replace(base, bandwidth_bytes_per_s=bytes_per_s), True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speed:
    """Speed of one adapter in Gbit/s, how many (None: not said), and whether a whole node shares them."""

    gigabits: float
    adapters: int | None
    of_node: bool


def _speed(text: str) -> _Speed | None:
    """Read ``8x200 Gb/s ... per node``, ``400 Gb/s per GPU`` or ``12.5 GB/s``, but no speed of NVLink."""
    for found in _SPEED.finditer(text):
        before, after = text[: found.start()].lower(), text[found.end() :].lower()
        if before.rstrip(" (").endswith(("nvlink", "nvswitch", "pcie", "xgmi")):
            continue
        bits = float(found.group(2)) * (8.0 if found.group(3).startswith("GB") else 1.0)
        after = re.split(r"[;,]", after)[0]
        adapters = int(found.group(1)) if found.group(1) else None
        of_node = adapters is not None or re.search(r"per node|/node", after) is not None
        return _Speed(gigabits=bits, adapters=adapters, of_node=of_node and "per gpu" not in after)
    return None


def _link(name: str) -> Link:
    try:
        profile = load_link(name)
    except ProfileError:
        raise RowError(f"no link profile is called {name!r}") from None
    return Link(
        name=profile.name,
        kind=profile.kind,
        latency_s=profile.latency_s.value,
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s.value,
        in_network_reduction=profile.in_network_reduction,
    )
