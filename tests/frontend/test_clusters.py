from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.loader import profile_names
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.clusters import parse_cluster
from planner.ir.cluster import Cluster


def _parse(described: object, *, source: str | None = None) -> Cluster:
    return parse_cluster(described, source=source, diagnostics=Diagnostics())


def _shape(cluster: Cluster) -> list[tuple[str, int, int, list[tuple[str, int, str]]]]:
    return [
        (
            group.name,
            group.num_nodes,
            group.devices_per_node,
            [(level.name, level.num_devices, level.link.name) for level in group.levels],
        )
        for group in cluster.groups
    ]


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("8xh200", [("h200", 1, 8, [("domain", 8, "nvlink4")])]),
        ("h200", [("h200", 1, 1, [("domain", 1, "nvlink4")])]),
        ("4xh100", [("h100", 1, 4, [("domain", 4, "nvlink4")])]),
        ("16xh100", [("h100", 2, 8, [("domain", 8, "nvlink4"), ("pod", 16, "ib400")])]),
        ("2x8xh100", [("h100", 2, 8, [("domain", 8, "nvlink4"), ("pod", 16, "ib400")])]),
        ("2 x 8 x H100_SXM @ ib200", [("h100", 2, 8, [("domain", 8, "nvlink4"), ("pod", 16, "ib200")])]),
        (
            "12xh100",
            [
                ("h100", 1, 8, [("domain", 8, "nvlink4")]),
                ("h100-rest", 1, 4, [("domain", 4, "nvlink4")]),
            ],
        ),
        ("gb200-nvl72", [("gb200", 18, 4, [("domain", 72, "nvlink5-nvl72")])]),
        ("8xgb200", [("gb200", 2, 4, [("domain", 8, "nvlink5-nvl72")])]),
        (
            "2xgb200-nvl72",
            [("gb200", 36, 4, [("domain", 72, "nvlink5-nvl72"), ("pod", 144, "ib400")])],
        ),
        (
            "100xgb200",
            [
                ("gb200", 18, 4, [("domain", 72, "nvlink5-nvl72")]),
                ("gb200-rest", 7, 4, [("domain", 28, "nvlink5-nvl72")]),
            ],
        ),
        ("3xdgx-h100", [("h100", 3, 8, [("domain", 8, "nvlink4"), ("pod", 24, "ib400")])]),
        ("8xl40s", [("l40s", 1, 8, [("node", 8, "pcie4")])]),
        ("8xa6000", [("a6000", 1, 8, [("domain", 2, "nvlink3-bridge"), ("node", 8, "pcie4")])]),
        (
            "8xh100+8xh200",
            [("h100", 1, 8, [("domain", 8, "nvlink4")]), ("h200", 1, 8, [("domain", 8, "nvlink4")])],
        ),
        (
            "8xh100+8xh100",
            [("h100", 1, 8, [("domain", 8, "nvlink4")]), ("h100-2", 1, 8, [("domain", 8, "nvlink4")])],
        ),
    ],
)
def test_shorthand(text: str, groups: object) -> None:
    assert _shape(_parse(text)) == groups


def test_two_networks_meet_over_the_slower() -> None:
    cluster = _parse("2x8xh100@ib400+4x8xl40s@eth100")
    assert cluster.num_devices == 48
    assert cluster.between_groups is not None
    assert cluster.between_groups.name == "eth100"


_SITES: dict[str, object] = {
    "groups": [
        {"name": "east", "device": "h100", "nodes": 2},
        {"name": "west", "device": "h100", "nodes": 1},
        {"name": "north", "device": "a100", "nodes": 1},
    ],
    "between_groups": "eth100",
}


def test_links_between_single_groups_come_before_the_one_between_all() -> None:
    link = {"groups": ["west", "east"], "bandwidth": "2 GB/s", "latency": "10 ms", "capacity": "5 GB/s"}
    cluster = _parse({**_SITES, "group_links": [link]})
    found = cluster.between("east", "west")
    assert found.link.bandwidth_bytes_per_s == 2e9
    assert found.link.latency_s == 0.01
    assert found.capacity_bytes_per_s == 5e9
    assert cluster.between("east", "north").link.name == "eth100"


@pytest.mark.parametrize(
    ("links", "word"),
    [
        ([{"groups": ["west", "south"], "link": "eth100"}], "no such group"),
        ([{"groups": ["west", "west"], "link": "eth100"}], "different groups"),
        ([{"groups": ["west"], "link": "eth100"}], "groups"),
        (
            [{"groups": ["west", "east"], "link": "eth100"}, {"groups": ["east", "west"], "link": "ib400"}],
            "two links",
        ),
        ([{"groups": ["west", "east"], "link": "string"}], "string"),
        ([{"groups": ["west", "east"]}], "link"),
    ],
)
def test_wrong_links_between_groups_are_refused(links: list[dict[str, object]], word: str) -> None:
    with pytest.raises(InputError, match=word):
        _parse({**_SITES, "group_links": links})


def test_devices_share_the_adapters_of_their_node() -> None:
    # An L40S server has 4 adapters for 8 devices: alone a device has a whole one, together half of one.
    link = _parse("2x8xl40s@roce200").groups[0].levels[-1].link
    assert link.bandwidth_bytes_per_s == 25e9
    assert link.oversubscription == 2.0
    assert _parse("2x8xl40s@2xroce200").groups[0].levels[-1].link.oversubscription == 4.0
    # A v6e host has 4 adapters of 200 Gbit/s for 8 chips; two chips in a node keep one adapter between them.
    many = _parse("2x2xh100@8xib400").groups[0].levels[-1].link
    assert many.bandwidth_bytes_per_s == pytest.approx(4 * 50e9)
    assert many.oversubscription == 1.0


def test_what_was_filled_in_is_said() -> None:
    diagnostics = Diagnostics()
    parse_cluster("12xh100", source=None, diagnostics=diagnostics)
    codes = {entry.code for entry in diagnostics.entries}
    assert codes == {"cluster-nodes", "cluster-between-groups", "cluster-power", "price-listed"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("8x", "Name a device"),
        ("8", "Name a device"),
        ("0xh100", "count '0'"),
        ("-3xh100", "count '-3'"),
        ("1.5xh100", "count '1.5'"),
        ("1e9xh100", "not a cluster description"),
        ("99999999xh100", "count '99999999'"),
        ("1000000x8xh100", "too many devices"),
        ("600000xh100+600000xh100", "too many devices"),
        ("2x2x2xh100", "At most two counts"),
        ("2x2000xh100", "too many devices in one node"),
        ("2x8xdgx-h100", "already says how many"),
        ("30xgb200", "nodes of 4"),
        ("8xh2000", "Did you mean 'h200'"),
        ("8xh100@", "not a cluster description"),
        ("8xh100@nvlink4", "does not join nodes"),
        ("8xh100@ib40O", "Did you mean 'ib400'"),
        ("8xh100+", "not a cluster description"),
        ("h100; rm -rf /", "not a cluster description"),
        ("$(reboot)", "not a cluster description"),
        ("h" * 5000, "too long"),
        ("+".join(["h100"] * 300), "too many parts"),
        ("no-such-file.yaml", "no such file"),
    ],
)
def test_wrong_text_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        _parse(text)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("described", [None, 5, 2.5, True, [1], ["8xh100"]])
def test_wrong_types_are_refused(described: object) -> None:
    with pytest.raises(InputError, match="a cluster is text or a table"):
        _parse(described)


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({}, "exactly one of `device`"),
        ({"device": "h100", "node": "hgx-h100"}, "exactly one of `device`"),
        ({"device": "h100", "nodes": "two"}, "expected a whole number; got 'two'"),
        ({"device": "h100", "nodes": 0}, "greater than or equal to 1"),
        ({"device": "h100", "nodes": 2.5}, "expected a whole number"),
        ({"device": "h100", "nodes": True}, "expected a whole number"),
        ({"device": "h100", "nodez": 3}, "Did you mean 'node"),
        ({"device": "h100", "devices": 8, "nodes": 2}, "not both"),
        ({"device": "h100", "price": "3 W"}, "not a power"),
        ({"device": "h100", "memory": "0 GB"}, "more than 0"),
        ({"device": "h100", "memory": "-1 GB"}, "cannot be negative"),
        ({"device": "h100", "nodes": 2, "node_names": ["a", "b; rm"]}, "not a host name"),
        ({"device": "h100", "nodes": 2, "node_names": ["a", "a"]}, "stands twice"),
        ({"device": "h100", "nodes": 2, "node_names": ["a"]}, "2 nodes but 1 node_names"),
        ({"device": "h100", "network": {"bandwidth": "5 GB/s"}}, "both `bandwidth` and `latency`"),
        ({"device": "h100", "network": {"link": "ib400", "oversubscription": 0.5}}, "greater than or equal"),
        ({"device": "h100", "labels": {"a": "b\nc"}}, "plain text"),
        ({"device": "h100", "levels": []}, "at least one level"),
        ({"device": "h100", "levels": [{"level": "domain", "devices": 3, "link": "nvlink4"}]}, "join 3 of 8"),
        ({"device": "h100", "levels": [{"level": "domian", "link": "nvlink4"}]}, "'domain'"),
        (
            {"device": "h100", "nodes": 2, "levels": [{"level": "node", "devices": 8}]},
            "a link needs its name",
        ),
        ({"device": "../../etc/passwd.yaml"}, "no such file"),
        ({"shorthand": "8xh100", "nodes": 2}, "stands alone"),
        ([], "expected a table of keys"),
        (7, "expected a table of keys"),
    ],
)
def test_wrong_groups_are_refused(group: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        _parse({"groups": [group]})
    assert words in str(caught.value), str(caught.value)


FULL = """\
name: lab
prices: on-demand
between_groups: {link: eth100, oversubscription: 2}
groups:
  - name: big
    device: h100
    nodes: 8
    levels:
      - {level: domain, devices: 8, link: nvlink4}
      - {level: rack, nodes: 4, link: ib400}
      - {level: pod, link: ib400, oversubscription: 2, latency: 7 us}
    price: 2.10 USD/h
    labels: {zone: a, row: 3}
  - name: small
    device: l40s
    nodes: 2
    devices_per_node: 4
    memory: 44 GB
    network: {bandwidth: 10 GB/s, latency: 20 us}
    host_memory: 512 GB
    node_power_overhead: 400 W
    node_names: [gpu-a, gpu-b]
  - 8xa100
"""


def test_yaml_inventory(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(FULL, encoding="utf-8")
    cluster = _parse("lab.yaml", source=str(tmp_path / "spec.yaml"))
    assert cluster.name == "lab"
    big, small, a100 = cluster.groups
    assert [(level.name, level.num_devices) for level in big.levels] == [
        ("domain", 8),
        ("rack", 32),
        ("pod", 64),
    ]
    assert big.levels[2].link.oversubscription == 2.0
    assert big.levels[2].link.latency_s == 7e-6
    assert (big.usd_per_device_hour, big.price_source) == (2.10, "given")
    assert big.labels == (("row", "3"), ("zone", "a"))
    assert small.device.memory_bytes.value == 44e9
    assert small.device.sources["user"].kind == "assumption"
    assert small.node_names == ("gpu-a", "gpu-b")
    assert small.host_memory_bytes == 512e9
    assert small.node_power_overhead_w == 400
    assert small.levels[-1].link.bandwidth_bytes_per_s == 10e9
    assert small.levels[-1].link.oversubscription == 1.0
    assert a100.num_devices == 8
    assert cluster.between_groups is not None
    assert cluster.between_groups.oversubscription == 2.0


def test_errors_in_a_file_carry_its_line(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(FULL.replace("nodes: 2\n", "nodes: two\n"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        _parse(str(path))
    assert caught.value.line == 1 + FULL.splitlines().index("    nodes: 2")
    assert caught.value.key == "groups[1].nodes"


def test_a_device_of_the_users_own(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "hardware_profiles" / "devices" / "h100.yaml"
    text = shipped.read_text(encoding="utf-8").replace("name: h100", "name: mine").replace("80 GB", "96 GB")
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "lab.yaml").write_text("device: mine.yaml\nnodes: 2\n", encoding="utf-8")
    group = _parse(str(tmp_path / "lab.yaml")).groups[0]
    assert (group.device.name, group.device.memory_bytes.value) == ("mine", 96e9)


@pytest.mark.parametrize("name", profile_names("clusters"))
def test_named_clusters_parse(name: str) -> None:
    cluster = _parse(name)
    assert cluster.num_devices >= 32
    doubled = _parse(f"2x{name}")
    assert doubled.num_devices == 2 * cluster.num_devices


def test_unknown_names_show_what_is_known() -> None:
    with pytest.raises(InputError, match="Did you mean 'gb200-nvl72'"):
        _parse("gb200-nvl27")


@pytest.mark.parametrize("device", profile_names("devices"))
def test_every_device_makes_clusters_whose_levels_nest(device: str) -> None:
    for text in (device, f"8x{device}", f"2x4x{device}", f"3x2x{device}@eth100"):
        if text.startswith("8x") and device.startswith("trainium2"):
            continue
        for group in _parse(text).groups:
            sizes = [level.num_devices for level in group.levels]
            assert sizes == sorted(sizes)
            assert len(set(sizes)) == len(sizes)
            assert sizes[-1] == group.num_devices
            assert all(big % small == 0 for small, big in pairwise(sizes))
            assert group.usd_per_device_hour is not None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    nodes=st.integers(1, 2000),
    per_node=st.integers(1, 64),
    device=st.sampled_from(["h100", "l40s", "gb200", "mi300x", "tpu-v5e", "a6000"]),
)
def test_shorthand_keeps_its_counts(nodes: int, per_node: int, device: str) -> None:
    cluster = _parse(f"{nodes}x{per_node}x{device}")
    assert cluster.num_devices == nodes * per_node
    assert all(group.devices_per_node == per_node for group in cluster.groups)
    for group in cluster.groups:
        sizes = [level.num_devices for level in group.levels]
        assert sizes[-1] == group.num_devices
        assert all(big % small == 0 for small, big in pairwise(sizes))
        domains, rest = divmod(group.num_devices, sizes[0])
        assert (domains >= 1, rest) == (True, 0)


_NEARLY = st.from_regex(r"[0-9]{0,3}x?[0-9]{0,3}x?[a-z0-9.@+-]{0,12}", fullmatch=True)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=(st.text(max_size=40) | _NEARLY).filter(lambda t: "/" not in t and "\0" not in t))
def test_any_text_gives_a_cluster_or_one_line_of_explanation(text: str) -> None:
    try:
        num_devices, message = _parse(text).num_devices, ""
    except InputError as error:
        num_devices, message = 0, str(error)
    assert (num_devices >= 1) == (not message)
    assert "\n" not in message
