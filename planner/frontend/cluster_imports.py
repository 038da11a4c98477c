"""Foreign descriptions of clusters: which importer reads a file, and the YAML that comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import yaml

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.cluster_inventory import ImportHints, Inventory
from planner.frontend.clusters import parse_cluster
from planner.frontend.profile_lookup import profile_errors
from planner.frontend.yaml_source import read_text
from planner.ir.cluster import Cluster
from planner.registry import Registry

MAX_IMPORT_BYTES = 64 * 1024 * 1024


class ClusterImporter(Protocol):
    """Reads one foreign format."""

    def recognises(self, text: str) -> bool:
        """Return whether a file with this text is of this format."""
        ...

    def read(self, text: str, file: str, hints: ImportHints, diagnostics: Diagnostics) -> Inventory:
        """Return the cluster as a mapping that `parse_cluster` takes.

        Raises
        ------
        InputError
            If the text is malformed or leaves something open that `hints` do not fill.
        """
        ...


CLUSTER_IMPORTERS: Registry[ClusterImporter] = Registry(
    what="cluster format", package="planner.frontend.cluster_importers", attribute="IMPORTER"
)


def import_cluster(
    path: Path, fmt: str | None, hints: ImportHints, diagnostics: Diagnostics
) -> tuple[Inventory, Cluster]:
    """Return the description of the cluster in a foreign file, and the cluster that it describes.

    Raises
    ------
    InputError
        If no importer knows the format or the file is wrong.
    """
    text = read_text(path, max_bytes=MAX_IMPORT_BYTES)
    importer = CLUSTER_IMPORTERS.get(fmt) if fmt is not None else _recognised(text, path)
    with profile_errors(file=str(path)):
        found = importer.read(text, str(path), hints, diagnostics)
    return found, parse_cluster(found, source=str(path), diagnostics=diagnostics)


def _recognised(text: str, path: Path) -> ClusterImporter:
    for _, importer in CLUSTER_IMPORTERS.items():
        if importer.recognises(text):
            return importer
    raise InputError(
        "not a cluster description in a known format",
        file=str(path),
        allowed=", ".join(CLUSTER_IMPORTERS.names()),
        hint="Say which with --format.",
    )


def inventory_text(found: Inventory) -> str:
    """Return a description as YAML."""
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=110)
