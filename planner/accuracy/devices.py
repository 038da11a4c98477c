"""Devices by the names that measurement files use, with the links that collectives ran over."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from cost_models.work import LinkSpec
from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import (
    UnknownProfileError,
    load_device,
    load_link,
    load_node,
    validate_profile,
)
from hardware_profiles.profile_file import read_profile_file
from hardware_profiles.schema import DeviceProfile
from planner.errors import InputError

_NAMED_NETWORKS = {"sharp": "ib400-sharp", "efa100": "efa100", "efa": "efa400"}
_BOARD_WORDS = re.compile(
    r"nvidia|amd|intel|tesla|geforce|instinct|gpu|tensor|core|server|edition|blackwell|dgx|hgx|sxm\d?|hbm\d?e?"
)
_BETWEEN_WORDS = re.compile(r"[\s_\-]+")
_MEMORY = re.compile(r"(\d{1,4})gb?")
_SAME_MEMORY = 0.15
_ADAPTERS = re.compile(r"(\d{1,3})x(\d{1,4}(?:\.\d{1,3})?)GB/s")


@cache
def find_device(name: str) -> DeviceProfile | None:
    """Return the device that a measurement file calls `name`, or None if no profile has that name.

    Words of vendors and boards around the name are ignored (``NVIDIA A100-SXM4-80GB``); a memory size must
    agree with the profile's.
    """
    words = [word for word in _BETWEEN_WORDS.split(name.lower()) if word and not _BOARD_WORDS.fullmatch(word)]
    memory_gb = next((float(m[1]) for m in map(_MEMORY.fullmatch, words) if m is not None), None)
    bare = [word for word in words if not _MEMORY.fullmatch(word)]
    for spelling in (name, "-".join(words), "-".join(bare)):
        try:
            device = load_device(spelling)
        except ProfileError:
            continue
        size_gb = device.memory_bytes.value / 1e9
        if spelling == name or memory_gb is None or abs(memory_gb / size_gb - 1.0) < _SAME_MEMORY:
            return device
    return None


def device_profile(name: str) -> DeviceProfile:
    """Return the device called `name`, or described by the YAML file of that name.

    Raises
    ------
    InputError
        If there is no such device or the file is no device profile.
    """
    try:
        if name.endswith((".yaml", ".yml")):
            return validate_profile(DeviceProfile, read_profile_file(Path(name)))
        return load_device(name)
    except ProfileError as error:
        own = "A device of your own is a YAML file: `newel profiles show l4 --yaml > mine.yaml` is a start."
        hints = [error.hint, own if isinstance(error, UnknownProfileError) else ""]
        raise InputError(
            error.message,
            file=error.file,
            line=error.line,
            key=error.key or None,
            value=error.value,
            allowed=error.allowed or None,
            hint=" ".join(hint for hint in hints if hint) or None,
        ) from error


@cache
def device_links(device_name: str) -> dict[str, LinkSpec]:
    """Return the ``scale_up`` link of a device and the ``network`` link of its usual node, where known."""
    device = find_device(device_name)
    if device is None:
        return {}
    links: dict[str, LinkSpec] = {}
    scale_up = _link(device.scale_up_link, share=1.0)
    if scale_up is not None:
        links["scale_up"] = scale_up
    network = _network_of(device)
    if network is not None:
        links["network"] = network
    return links


def _network_of(device: DeviceProfile) -> LinkSpec | None:
    """Return one device's share of the network adapters of its usual node."""
    try:
        node = load_node(device.default_node)
    except ProfileError:
        return None
    return _link(node.network_link, share=node.num_network_links / node.devices_per_node)


@cache
def network_link(device_name: str, system: str) -> LinkSpec | None:
    """Return one device's share of the network between nodes: that of the usual node, unless `system` tells.

    `system` may name a link (``2 nodes ib400``) and the adapters of a node (``EFA 8x50GB/s``).
    """
    usual = device_links(device_name).get("network")
    device = find_device(device_name)
    if usual is None or device is None:
        return usual
    named = _named_network(system)
    if named is not None:
        usual = replace(named, bandwidth_bytes_per_s=usual.bandwidth_bytes_per_s)
    told = _ADAPTERS.search(system)
    if told is not None:
        total = int(told[1]) * float(told[2]) * 1e9
        share = _devices_per_node(device) if int(told[1]) > 1 else 1
        usual = replace(usual, bandwidth_bytes_per_s=total / share)
    return usual


def _named_network(system: str) -> LinkSpec | None:
    lowered = system.lower()
    words = [word for word in lowered.replace("+", " ").split() if not word.startswith("nvl")]
    names = [name for key, name in _NAMED_NETWORKS.items() if key in lowered] + words
    found = (_link(name, share=1.0) for name in names)
    return next((link for link in found if link is not None and link.is_network), None)


def _devices_per_node(device: DeviceProfile) -> int:
    try:
        return load_node(device.default_node).devices_per_node
    except ProfileError:
        return 1


def _link(name: str, *, share: float) -> LinkSpec | None:
    try:
        profile = load_link(name)
    except ProfileError:
        return None
    return LinkSpec(
        name=profile.name,
        latency_s=profile.latency_s.value,
        bandwidth_bytes_per_s=profile.bandwidth_bytes_per_s.value * share,
        in_network_reduction=profile.in_network_reduction,
        kind=profile.kind,
    )
