"""Foreign descriptions of clusters: golden inventories, and what is refused.

To accept a change: NEWEL_UPDATE_GOLDEN=1 pytest tests/frontend/test_cluster_imports.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_imports import CLUSTER_IMPORTERS, import_cluster, inventory_text
from planner.frontend.cluster_inventory import ImportHints
from planner.frontend.clusters import parse_cluster
from planner.ir.cluster import Cluster

DATA = Path(__file__).parents[1] / "data" / "cluster_imports"
GOLDEN = Path(__file__).parents[1] / "golden" / "cluster_imports"

CASES = {
    "nvidia-smi-topo-m.ansi-underline.txt": ImportHints(device="h100", num_nodes=2, network="ib400"),
    "nvidia-smi-topo-m.hgx-h100-8gpu-8nic.txt": ImportHints(device="h200"),
    "nvidia-smi-topo-m.l40s-pcie-4gpu.txt": ImportHints(device="l40s"),
    "nvidia-smi-topo-m.old-driver-mlx-names.txt": ImportHints(device="a100", num_nodes=4, network="ib200"),
    "nvidia-smi-topo-m.v100-partial-nvlink.txt": ImportHints(device="v100"),
    "rocm-smi-showtopo.mi300x-8gpu.txt": ImportHints(device="mi300x", network="roce400"),
    "rocm-smi-showtopo.pcie-4gpu.txt": ImportHints(device="mi300x"),
    "k8s-nodes.json": ImportHints(),
    "scontrol-show-node.txt": ImportHints(network="ib200"),
    "scontrol-show-topology.block.txt": ImportHints(device="gb200"),
    "scontrol-show-topology.tree.txt": ImportHints(device="h100"),
    "slurm-topology.block.conf": ImportHints(device="h100", devices_per_node=4),
    "slurm-topology.tree.conf": ImportHints(device="h100"),
    "slurm-topology.yaml": ImportHints(device="h200"),
}


def _import(name: str) -> tuple[str, Cluster, Diagnostics]:
    diagnostics = Diagnostics()
    found, cluster = import_cluster(DATA / name, None, CASES[name], diagnostics)
    return inventory_text(found), cluster, diagnostics


def test_every_fixture_has_a_case_and_every_importer_a_fixture() -> None:
    assert {path.name for path in DATA.iterdir()} - {"README.md"} == set(CASES)
    used = {
        fmt
        for name in CASES
        for fmt, importer in CLUSTER_IMPORTERS.items()
        if importer.recognises((DATA / name).read_text(encoding="utf-8"))
    }
    assert used == set(CLUSTER_IMPORTERS.names())


@pytest.mark.parametrize("name", CASES)
def test_inventory_is_as_frozen(name: str) -> None:
    text, _, diagnostics = _import(name)
    notes = [f"# {e.severity}: {e.message}" for e in diagnostics.entries if e.code.startswith("import-")]
    text = "\n".join([*notes, text])
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("NEWEL_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CASES)
def test_written_inventory_reads_back_as_the_same_cluster(name: str, tmp_path: Path) -> None:
    text, cluster, _ = _import(name)
    path = tmp_path / "imported.yaml"
    path.write_text(text, encoding="utf-8")
    assert parse_cluster(str(path), source=None, diagnostics=Diagnostics()) == cluster


@pytest.mark.parametrize("name", CASES)
def test_exactly_one_importer_recognises_a_file(name: str) -> None:
    text = (DATA / name).read_text(encoding="utf-8")
    assert sum(importer.recognises(text) for _, importer in CLUSTER_IMPORTERS.items()) == 1


def test_nvlink_to_a_switch_and_in_a_mesh() -> None:
    # 18 NVLinks of 25 GB/s to a switch: 450 GB/s. A V100 with 1 + 1 + 2 links to its peers: 100 GB/s.
    switched = _import("nvidia-smi-topo-m.hgx-h100-8gpu-8nic.txt")[1].groups[0].levels[0]
    assert (switched.num_devices, switched.link.bandwidth_bytes_per_s) == (8, 450e9)
    meshed = _import("nvidia-smi-topo-m.v100-partial-nvlink.txt")[1].groups[0].levels[0]
    assert (meshed.num_devices, meshed.link.bandwidth_bytes_per_s) == (4, 100e9)


def test_adapters_near_gpus_are_counted() -> None:
    link = _import("nvidia-smi-topo-m.old-driver-mlx-names.txt")[1].groups[0].levels[-1].link
    assert (link.name, link.bandwidth_bytes_per_s, link.oversubscription) == ("ib200", 25e9, 2.0)


def test_a_pasted_matrix_with_spaces_reads_the_same(tmp_path: Path) -> None:
    name = "nvidia-smi-topo-m.hgx-h100-8gpu-8nic.txt"
    text = (DATA / name).read_text(encoding="utf-8").replace("\t", "    ")
    path = tmp_path / "pasted.txt"
    path.write_text(text, encoding="utf-8")
    assert import_cluster(path, None, CASES[name], Diagnostics())[1] == _import(name)[1]


def test_cliques_are_domains() -> None:
    gb200 = _import("k8s-nodes.json")[1].groups[0]
    assert (gb200.device.name, gb200.num_nodes, gb200.domain_size) == ("gb200", 2, 8)


def _changed_node(**changes: object) -> str:
    node = json.loads((DATA / "k8s-nodes.json").read_text(encoding="utf-8"))["items"][0]
    for path, value in changes.items():
        table = node
        *outer, last = path.split("__")
        for key in outer:
            table = table[key]
        table[last] = value
    return json.dumps(node)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spec": {"unschedulable": True}}, "cordoned"),
        ({"status__conditions": [{"type": "Ready", "status": "False"}]}, "not ready"),
        ({"metadata__labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-SHARED"}}, "shared"),
        ({"metadata__labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3-MIG-1g.10gb"}}, "MIG"),
    ],
)
def test_unusable_nodes_are_left_out_and_named(
    changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "nodes.json"
    path.write_text(_changed_node(**changes), encoding="utf-8")
    diagnostics = Diagnostics()
    with pytest.raises(InputError, match="no usable node"):
        import_cluster(path, "kubernetes-nodes", ImportHints(), diagnostics)
    assert any(words in entry.message and "gpu-00" in entry.message for entry in diagnostics.entries)


@pytest.mark.parametrize(
    ("fmt", "text", "words"),
    [
        (None, "hello", "not a cluster description in a known format"),
        ("nvidia-smi-topo", "", "empty"),
        ("nvidia-smi-topo", "\tGPU0\tGPU2\n", "must name GPU0"),
        ("nvidia-smi-topo", "\tGPU0\tGPU1\nGPU0\t X \tNV4\n", "row of GPU1 is missing"),
        ("nvidia-smi-topo", "\tGPU0\tGPU1\nGPU0\t X \tNV4\nGPU1\tNV2\t X \n", "not symmetric"),
        ("nvidia-smi-topo", "\tGPU0\tGPU1\nGPU0\t X \tfast\nGPU1\tNV2\t X \n", "row GPU0 needs 2 links"),
        ("rocm-smi-showtopo", "nothing", "link types is missing"),
        ("rocm-smi-showtopo", "= Link Type between two GPUs =\n GPU0 GPU1\nGPU0 0 XGMI\n", "not square"),
        ("kubernetes-nodes", "{", "not valid JSON"),
        ("kubernetes-nodes", "[" * 100_000, "not valid JSON"),
        ("kubernetes-nodes", '{"items": [5]}', "expected an object"),
        ("kubernetes-nodes", '{"items": []}', "no usable node"),
        ("kubernetes-nodes", '{"metadata": {}}', "has no name"),
        ("slurm-nodes", "NodeName=a Gres=gpu:h100:8\n\nNodeName=a Gres=gpu:h100:8\n", "stands twice"),
        ("slurm-nodes", "NodeName=a Gres=gpu:8 State=IDLE\n", "does not say which accelerator"),
        ("slurm-nodes", "NodeName=a Gres=gpu:b1000:8 State=IDLE\n", "unknown device"),
        ("slurm-nodes", "NodeName=a;reboot Gres=gpu:h100:8 State=IDLE\n", "not a host name"),
        ("slurm-topology", "SwitchName=a Nodes=n[1-\n", "say"),
        ("no-such-format", "x", "unknown cluster format"),
    ],
)
def test_wrong_files_are_refused(fmt: str | None, text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "found.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        import_cluster(path, fmt, ImportHints(), Diagnostics())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SwitchName=a Nodes=n[1-\n", "brackets"),
        ("SwitchName=a Nodes=n[9-1]\n", "not a range"),
        ("SwitchName=a Nodes=n[1-999999999]\n", "not a range"),
        ("SwitchName=a Nodes=n[1-999][1-999]\n", "too many hosts"),
        ("SwitchName=a Nodes=n[x]\n", "not a range"),
        ("SwitchName=a Switches=b\nSwitchName=b Switches=a\nSwitchName=a Nodes=n1\n", "circle"),
        ("topology: [", "not valid YAML"),
    ],
)
def test_wrong_topologies_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "topology.conf"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        import_cluster(path, "slurm-topology", ImportHints(device="h100"), Diagnostics())
    assert words in str(caught.value)


def test_the_device_must_be_said_where_the_file_does_not() -> None:
    for name in ("nvidia-smi-topo-m.hgx-h100-8gpu-8nic.txt", "slurm-topology.yaml"):
        with pytest.raises(InputError, match="--device"):
            import_cluster(DATA / name, None, ImportHints(), Diagnostics())
