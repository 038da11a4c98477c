"""Is a profile plausible? Rules that a typing mistake in a data sheet's number would break.

Ranges are wide: they catch a wrong unit or a sparse peak beside a dense one, not a bold design.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import canonical, load_device, load_link, load_node, profile_names
from hardware_profiles.schema import DeviceProfile, LinkProfile, NodeProfile, PriceList, Source
from hardware_profiles.units import Dimension, format_quantity

_MEMORY_BYTES = (1e9, 20e12)
_BANDWIDTH_BYTES_PER_S = (10e9, 100e12)
_PEAK_FLOPS_PER_S = (0.1e12, 200e15)
# FLOP in 16 bit per byte of memory traffic at which both limits meet: 34 (Apple) to 560 (TPU v6e) so far.
_RIDGE_FLOP_PER_BYTE = (10.0, 1500.0)
_TDP_W = (5.0, 5000.0)
_LINK_BYTES_PER_S = (10e6, 20e12)
_LINK_LATENCY_S = (10e-9, 1.0)
_OVERHEAD_W = (0.0, 20_000.0)
_USD_PER_HOUR = (0.01, 200.0)
_WIDENING = ("fp32", "tf32", "bf16", "fp8", "fp6", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong (error) or doubtful (warning) about one key of a profile."""

    severity: Literal["error", "warning"]
    key: str
    message: str


def _error(key: str, message: str) -> Finding:
    return Finding(severity="error", key=key, message=message)


def _warning(key: str, message: str) -> Finding:
    return Finding(severity="warning", key=key, message=message)


def _outside(key: str, value: float, limits: tuple[float, float], dimension: Dimension) -> Iterator[Finding]:
    if not limits[0] <= value <= limits[1]:
        low, high = (format_quantity(limit, dimension) for limit in limits)
        yield _error(key, f"{format_quantity(value, dimension)} is outside {low} to {high}")


def check_sources(sources: Mapping[str, Source], used: set[str]) -> Iterator[Finding]:
    """Yield what is wrong with a table of sources: no title, no address, no date, never used."""
    for key, source in sources.items():
        if not source.title.strip():
            yield _error(f"sources.{key}", "the title is empty")
        if not source.url.startswith(("https://", "http://")):
            yield _warning(f"sources.{key}", "no address to read it at")
        if source.date == "given":
            yield _error(f"sources.{key}", "a file needs the date of its source")
        if key not in used:
            yield _warning(f"sources.{key}", "no number refers to it")


def check_device(device: DeviceProfile) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about a device."""
    yield from check_sources(device.sources, {fact.source for _, fact in device.facts()})
    yield from _outside("memory_bytes", device.memory_bytes.value, _MEMORY_BYTES, "bytes")
    bandwidth = device.memory_bandwidth_bytes_per_s.value
    yield from _outside("memory_bandwidth_bytes_per_s", bandwidth, _BANDWIDTH_BYTES_PER_S, "bytes_per_s")
    yield from _outside("tdp_w", device.tdp_w.value, _TDP_W, "power")
    if not device.idle_w.value < device.tdp_w.value:
        yield _error("idle_w", "idle power must be below the design power")
    if device.num_sms.value < 1:
        yield _error("num_sms", "a device has at least one compute unit")
    if device.l2_bytes.value >= device.memory_bytes.value:
        yield _error("l2_bytes", "the cache is not larger than the memory")
    reported = device.driver_memory_bytes
    if reported is not None and not 0.85 <= reported.value / device.memory_bytes.value <= 1.15:
        yield _error("driver_memory_bytes", "differs by more than 15 % from memory_bytes")
    yield from _check_peaks(device, bandwidth)
    yield from _check_device_links(device)


def _check_peaks(device: DeviceProfile, bandwidth: float) -> Iterator[Finding]:
    peaks = {fmt: fact.value for fmt, fact in device.peak_flops_per_s.items()}
    for fmt, peak in peaks.items():
        yield from _outside(f"peak_flops_per_s.{fmt}", peak, _PEAK_FLOPS_PER_S, "flops_per_s")
    wide = [peaks[fmt] for fmt in ("bf16", "fp16") if fmt in peaks]
    if not wide:
        yield _error("peak_flops_per_s", "neither bf16 nor fp16: no model runs on it")
    elif bandwidth > 0:
        ridge = max(wide) / bandwidth
        low, high = _RIDGE_FLOP_PER_BYTE
        if not low <= ridge <= high:
            yield _error(
                "peak_flops_per_s",
                f"ridge point of {ridge:.3g} FLOP per byte in 16 bit is outside {low:g} to {high:g}",
            )
    present = [fmt for fmt in _WIDENING if fmt in peaks]
    for wider, narrower in pairwise(present):
        if peaks[narrower] < peaks[wider]:
            yield _error(f"peak_flops_per_s.{narrower}", f"below {wider}, which has more bits")


def _missing(key: str, load: Callable[[str], object], name: str) -> Iterator[Finding]:
    try:
        load(name)
    except ProfileError as error:
        yield _error(key, str(error))


def _check_device_links(device: DeviceProfile) -> Iterator[Finding]:
    yield from _missing("scale_up_link", load_link, device.scale_up_link)
    yield from _missing("host_link", load_link, device.host_link)
    yield from _missing("default_node", load_node, device.default_node)


def check_link(link: LinkProfile) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about a link."""
    yield from check_sources(link.sources, {fact.source for _, fact in link.facts()})
    bandwidth = link.bandwidth_bytes_per_s.value
    yield from _outside("bandwidth_bytes_per_s", bandwidth, _LINK_BYTES_PER_S, "bytes_per_s")
    yield from _outside("latency_s", link.latency_s.value, _LINK_LATENCY_S, "time")


def check_node(node: NodeProfile) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about a node kind."""
    yield from check_sources(node.sources, {fact.source for _, fact in node.facts()})
    yield from _missing("device", load_device, node.device)
    for key in ("scale_up_link", "intra_node_link", "network_link"):
        yield from _missing(key, load_link, str(getattr(node, key)))
    small, big = sorted((node.scale_up_domain, node.devices_per_node))
    if big % small:
        yield _error("scale_up_domain", f"{small} and {big} devices do not nest")
    yield from _outside("host_memory_bytes", node.host_memory_bytes.value, _MEMORY_BYTES, "bytes")
    host = node.host_memory_bytes_per_s
    if host is not None:
        yield from _outside("host_memory_bytes_per_s", host.value, _BANDWIDTH_BYTES_PER_S, "bytes_per_s")
    yield from _outside("power_overhead_w", node.power_overhead_w.value, _OVERHEAD_W, "power")


def check_prices(prices: PriceList) -> Iterator[Finding]:
    """Yield what is wrong or doubtful about a price list."""
    yield from check_sources(prices.sources, {fact.source for _, fact in prices.facts()})
    seen: set[str] = set()
    for index, entry in enumerate(prices.entries):
        key = f"entries[{index}]"
        yield from _missing(key, load_device, entry.device)
        if canonical(entry.device) in seen:
            yield _error(key, f"{entry.device} stands twice")
        seen.add(canonical(entry.device))
        yield from _outside(key, entry.usd_per_device_hour.value, _USD_PER_HOUR, "usd_per_hour")
    without = sorted(set(profile_names("devices")) - seen)
    if without:
        yield _warning("entries", f"no price of {', '.join(without)}")
