"""Devices by the names that measurement files use, with the links that collectives ran over."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from cost_models.work import LinkSpec
from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_device, load_link, load_node, validate_profile
from hardware_profiles.profile_file import read_profile_file
from hardware_profiles.schema import DeviceProfile
from planner.errors import InputError

_NAMED_NETWORKS = {"sharp": "ib400-sharp", "efa": "efa400"}


@cache
def find_device(name: str) -> DeviceProfile | None:
    """Return the device that a measurement file calls `name`, or None if no profile has that name."""
    try:
        return load_device(name)
    except ProfileError:
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
        raise InputError(
            error.message,
            file=error.file,
            line=error.line,
            key=error.key or None,
            value=error.value,
            allowed=error.allowed or None,
            hint=error.hint or None,
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


def network_link(device_name: str, system: str) -> LinkSpec | None:
    """Return the network between nodes: what the `system` text names, else that of the usual node."""
    usual = device_links(device_name).get("network")
    named = next((link for key, link in _NAMED_NETWORKS.items() if key in system.lower()), None)
    found = _link(named, share=1.0) if named is not None else None
    if usual is None or found is None:
        return usual
    return replace(
        usual,
        name=found.name,
        latency_s=found.latency_s,
        in_network_reduction=found.in_network_reduction,
    )


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
    )
