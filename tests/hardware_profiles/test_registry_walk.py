"""Every shipped profile is loaded and held against its rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hardware_profiles import loader
from hardware_profiles.loader import load_device, load_link, load_node, profile_names
from hardware_profiles.schema import DeviceProfile, LinkProfile, NodeProfile

DEVICES = profile_names("devices")
LINKS = profile_names("links")
NODES = profile_names("nodes")
FOLDER = Path(loader.__file__).parent


def test_there_are_enough_devices() -> None:
    assert len(DEVICES) >= 32


@pytest.mark.parametrize("name", DEVICES)
def test_every_number_of_a_device_has_a_dated_source(name: str) -> None:
    device = load_device(name)
    facts = device.facts()
    assert {key for key, _ in facts} >= {
        "memory_bytes",
        "memory_bandwidth_bytes_per_s",
        "num_sms",
        "l2_bytes",
        "tdp_w",
        "idle_w",
        *(f"peak_flops_per_s.{fmt}" for fmt in device.peak_flops_per_s),
    }
    for key, fact in facts:
        source = device.sources[fact.source]
        assert source.title, key
        assert source.url.startswith("https://"), key
        assert re.match(r"20[0-9]{2}", source.date), key
        device.provenance_of(fact)


@pytest.mark.parametrize("name", DEVICES)
def test_links_and_node_of_a_device_exist(name: str) -> None:
    device = load_device(name)
    load_link(device.scale_up_link)
    load_link(device.host_link)
    assert load_node(device.default_node).device == name


@pytest.mark.parametrize("name", NODES)
def test_links_and_device_of_a_node_exist(name: str) -> None:
    node = load_node(name)
    assert load_device(node.device).name == node.device
    for link in (node.scale_up_link, node.intra_node_link, node.network_link):
        assert load_link(link).name == link


@pytest.mark.parametrize("name", LINKS)
def test_links_load(name: str) -> None:
    link = load_link(name)
    assert link.bandwidth_bytes_per_s.value > 0
    assert 0 < link.latency_s.value < 1


@pytest.mark.parametrize("kind", ["devices", "links", "nodes"])
def test_no_two_profiles_share_a_name_or_alias(kind: str) -> None:
    load = {"devices": load_device, "links": load_link, "nodes": load_node}[kind]
    owner: dict[str, str] = {}
    for name in {"devices": DEVICES, "links": LINKS, "nodes": NODES}[kind]:
        profile: DeviceProfile | LinkProfile | NodeProfile = load(name)
        for spelling in (name, *map(loader.canonical, profile.aliases)):
            assert owner.setdefault(spelling, name) == name, spelling


@pytest.mark.parametrize("kind", ["devices", "links", "nodes"])
def test_names_are_lower_case_and_aliases_on_one_line(kind: str) -> None:
    for path in sorted((FOLDER / kind).glob("*.yaml")):
        assert re.fullmatch(r"[a-z0-9.-]+", path.stem)
        assert re.search(r"^aliases: \[", path.read_text(encoding="utf-8")[:2000], re.M), path.name


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("H100", "h100"),
        ("h100_sxm", "h100"),
        ("H100-SXM5-80GB", "h100"),
        ("a100_sxm", "a100"),
        ("h200_sxm", "h200"),
        ("b200_sxm", "b200"),
        ("b300_sxm", "b300"),
        ("rtx_pro_6000_server", "rtx-pro-6000"),
        ("RTX 4090", "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_devices_are_found_by_their_usual_spellings(spelling: str, name: str) -> None:
    assert load_device(spelling).name == name


def test_published_peaks_are_dense() -> None:
    # Sparse figures are twice these; data sheets of the vendors, BF16.
    known = {"a100": 312e12, "h100": 989.4e12, "l40s": 362.05e12, "b200": 2.25e15, "mi300x": 1307.4e12}
    for name, peak in known.items():
        assert load_device(name).peak_flops_per_s["bf16"].value == pytest.approx(peak)


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(loader.UnknownProfileError, match=r"unknown device; got 'h10O'.*Did you mean 'h100'"):
        load_device("h10O")
