"""``kubectl get nodes -o json``: devices from labels and allocatable resources, network from labels.

Devices are those that can be allocated, not those installed. Nodes that are not ready, cordoned,
shared or partitioned (MIG) are left out and named. Labels: NVIDIA GPU feature discovery, AMD's node
labeller, topograph, and the topology labels of AWS, Google and Oracle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import cast

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import FoundNode, ImportHints, Inventory, find_device, inventory

_PRODUCTS = ("nvidia.com/gpu.product", "amd.com/gpu.product-name", "cloud.google.com/gke-tpu-accelerator")
_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "google.com/tpu", "habana.ai/gaudi", "aws.amazon.com/neuron")
_DOMAINS = (
    "nvidia.com/gpu.clique",
    "accelerator.topograph.run/domain",
    "network.topology.nvidia.com/accelerator",
)
_TIERS = (
    tuple(f"topology.k8s.aws/network-node-layer-{layer}" for layer in (3, 2, 1)),
    tuple(f"fabric.topograph.run/tier-{tier}" for tier in (0, 1, 2)),
    ("cloud.google.com/gce-topology-subblock", "cloud.google.com/gce-topology-block"),
    ("oci.oraclecloud.com/host.rack_id", "oci.oraclecloud.com/host.network_block_id"),
)
_KEPT_LABELS = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T|)\Z")
_FACTORS = {
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "": 1,
}

Table = Mapping[str, object]


class KubernetesNodes:
    """Reads a list of nodes, or one node."""

    def recognises(self, text: str) -> bool:
        """Return whether the text is a JSON object with Kubernetes nodes."""
        head = text.lstrip()[:1]
        return head == "{" and '"kind"' in text and ('"Node"' in text or '"NodeList"' in text)

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return the usable nodes as an inventory."""
        try:
            document: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON: {error}", file=file) from None
        table = _table(document, file)
        items = table.get("items", [table])
        if not isinstance(items, list):
            raise InputError("`items` must be a list of nodes", file=file)
        found: list[FoundNode] = []
        for item in cast("list[object]", items):
            node = _node(_table(item, file), file, hints, diagnostics)
            if node is not None:
                found.append(node)
        return inventory(found, "imported", hints, diagnostics, file=file)


def _table(value: object, file: str) -> Table:
    if not isinstance(value, dict):
        raise InputError("expected an object", file=file, value=value)
    return cast("Table", value)


def _under(table: Table, *keys: str) -> Table:
    for key in keys:
        value = table.get(key)
        table = cast("Table", value) if isinstance(value, dict) else {}
    return table


def _node(item: Table, file: str, hints: ImportHints, diagnostics: Diagnostics) -> FoundNode | None:
    name = str(_under(item, "metadata").get("name", ""))
    if not name:
        raise InputError("a node has no name", file=file, key="metadata.name")
    labels = {key: str(value) for key, value in _under(item, "metadata", "labels").items()}
    num_devices = _num_devices(_under(item, "status", "allocatable"), name, file)
    if num_devices == 0:
        return None
    product = next((labels[key] for key in _PRODUCTS if key in labels), "")
    reason = _unusable(item, labels, product)
    if reason:
        diagnostics.warn("import-node-left-out", f"node {name} is left out: {reason}")
        return None
    wanted = hints.device or product
    if not wanted:
        raise InputError(
            f"node {name} has no label with its accelerator", file=file, hint="Say --device to name it."
        )
    return FoundNode(
        name=name,
        device=find_device(wanted, file).name,
        num_devices=num_devices,
        host_memory_bytes=_memory(_under(item, "status", "capacity").get("memory")),
        tiers=_tiers(labels, hints),
        domain=next((labels[key] for key in _DOMAINS if labels.get(key)), ""),
        labels=tuple((key, labels[key]) for key in _KEPT_LABELS if key in labels),
    )


def _num_devices(allocatable: Table, name: str, file: str) -> int:
    for resource in _RESOURCES:
        text = str(allocatable.get(resource, "0"))
        if not re.fullmatch(r"[0-9]{1,4}", text):
            raise InputError(f"node {name}: not a count", file=file, key=resource, value=text)
        if int(text):
            return int(text)
    return 0


def _unusable(item: Table, labels: Mapping[str, str], product: str) -> str:
    """Return why a node cannot be used, "" if it can."""
    if _under(item, "spec").get("unschedulable") is True:
        return "it is cordoned"
    conditions = _under(item, "status").get("conditions")
    if isinstance(conditions, list):
        for condition in cast("list[object]", conditions):
            if isinstance(condition, dict):
                state = cast("Table", condition)
                if state.get("type") == "Ready" and state.get("status") != "True":
                    return "it is not ready"
    if labels.get("nvidia.com/gpu.replicas", "1") not in {"0", "1"} or product.endswith("-SHARED"):
        return "its devices are shared"
    return "its devices are partitioned (MIG)" if "-MIG-" in product else ""


def _memory(value: object) -> float | None:
    match = _MEMORY.match(str(value))
    return float(match[1]) * _FACTORS[match[2]] if match else None


def _tiers(labels: Mapping[str, str], hints: ImportHints) -> tuple[str, ...]:
    """Return the switches of a node from the nearest outwards, by the first set of labels it has."""
    sets = (hints.topology_labels,) if hints.topology_labels else _TIERS
    for keys in sets:
        if all(labels.get(key) for key in keys):
            return tuple(labels[key] for key in keys)
    return ()


IMPORTER = KubernetesNodes()
