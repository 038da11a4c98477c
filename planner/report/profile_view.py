"""Hardware profiles as lines of text: one profile with the source of each number, and lists of them."""

from __future__ import annotations

from hardware_profiles.schema import DeviceProfile, Fact, LinkProfile, NodeProfile, PriceList
from hardware_profiles.units import Dimension, format_quantity

Profile = DeviceProfile | LinkProfile | NodeProfile | PriceList

_DIMENSION_BY_SUFFIX: tuple[tuple[str, Dimension], ...] = (
    ("_bytes_per_s", "bytes_per_s"),
    ("_bytes", "bytes"),
    ("_usd_per_device_hour", "usd_per_hour"),
    ("_s", "time"),
    ("_w", "power"),
)


def dimension_of(key: str) -> Dimension:
    """Return the dimension that the suffix of a fact's key states."""
    if key.startswith(("peak_flops_per_s.", "reached_flops_per_s.")):
        return "flops_per_s"
    name = "_" + key.rsplit(".", 1)[-1]
    for suffix, dimension in _DIMENSION_BY_SUFFIX:
        if name.endswith(suffix):
            return dimension
    return "count"


def profile_lines(profile: Profile) -> list[str]:
    """Return a profile as aligned lines: plain fields, numbers with their source key, then the sources."""
    facts = profile.facts()
    lines = [profile.name]
    plain = _plain_fields(profile)
    width = max([len(key) for key, _ in (*plain, *facts)], default=0)
    lines += [f"  {key:<{width}}  {text}" for key, text in plain]
    shown = [(key, format_quantity(fact.value, dimension_of(key)), fact) for key, fact in facts]
    value_width = max((len(text) for _, text, _ in shown), default=0)
    lines += [f"  {key:<{width}}  {text:<{value_width}}  {_source(fact)}" for key, text, fact in shown]
    lines.append("  sources")
    for key, source in profile.sources.items():
        lines.append(f"    [{key}] {source.title}; {source.date}; {source.kind}; {source.url}")
    if profile.notes:
        lines.append(f"  notes: {profile.notes}")
    return lines


def _source(fact: Fact) -> str:
    return f"[{fact.source}] {fact.note}" if fact.note else f"[{fact.source}]"


def _plain_fields(profile: Profile) -> list[tuple[str, str]]:
    fields: list[tuple[str, str]] = []
    for name in type(profile).model_fields:
        value: object = getattr(profile, name)
        if name == "aliases" and profile.aliases:
            fields.append((name, ", ".join(profile.aliases)))
        elif name not in {"name", "notes"} and isinstance(value, str | int):
            fields.append((name, str(value)))
    return fields


def device_rows(devices: list[DeviceProfile]) -> list[str]:
    """Return a table of devices: memory, bandwidth, dense peaks, power and scale-up domain."""
    rows: list[tuple[str, ...]] = [
        ("device", "vendor", "memory", "bandwidth", "bf16", "fp8", "fp4", "power", "domain", "link")
    ]
    for device in devices:
        peaks = device.peak_flops_per_s
        half = "bf16" if "bf16" in peaks else "fp16"
        rows.append(
            (
                device.name,
                device.vendor,
                format_quantity(device.memory_bytes.value, "bytes"),
                format_quantity(device.memory_bandwidth_bytes_per_s.value, "bytes_per_s"),
                *(_peak(peaks.get(fmt)) for fmt in (half, "fp8", "fp4")),
                format_quantity(device.tdp_w.value, "power"),
                str(device.scale_up_domain),
                device.scale_up_link,
            )
        )
    return _aligned(rows)


def _peak(fact: Fact | None) -> str:
    return "-" if fact is None else format_quantity(fact.value, "flops_per_s")


def link_rows(links: list[LinkProfile]) -> list[str]:
    """Return a table of links: kind, bandwidth per device and direction, latency."""
    rows: list[tuple[str, ...]] = [("link", "kind", "bandwidth", "latency")]
    for link in links:
        bandwidth = format_quantity(link.bandwidth_bytes_per_s.value, "bytes_per_s")
        rows.append((link.name, link.kind, bandwidth, format_quantity(link.latency_s.value, "time")))
    return _aligned(rows)


def node_rows(nodes: list[NodeProfile]) -> list[str]:
    """Return a table of node kinds: devices, scale-up domain, network."""
    rows: list[tuple[str, ...]] = [("node", "devices", "domain", "scale-up link", "network")]
    for node in nodes:
        devices = f"{node.devices_per_node} x {node.device}"
        network = f"{node.num_network_links} x {node.network_link}"
        rows.append((node.name, devices, str(node.scale_up_domain), node.scale_up_link, network))
    return _aligned(rows)


def price_rows(prices: PriceList) -> list[str]:
    """Return a table of prices with the kind and date of their sources."""
    rows: list[tuple[str, ...]] = [("device", "price", "source", "date", "kind")]
    for entry in prices.entries:
        fact = entry.usd_per_device_hour
        source = prices.sources[fact.source]
        rows.append(
            (entry.device, format_quantity(fact.value, "usd_per_hour"), fact.source, source.date, source.kind)
        )
    return _aligned(rows)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    cells = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in cells]
