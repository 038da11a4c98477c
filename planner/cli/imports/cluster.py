"""``newel import cluster``: read what other tools say about a cluster into a YAML inventory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json, new_diagnostics, say, show_diagnostics


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("cluster")(cluster)


def cluster(  # noqa: PLR0913, PLR0917 - one parameter per option
    file: Annotated[Path, typer.Argument(help="What to import.")],
    fmt: Annotated[
        str | None,
        typer.Option("--format", help="nvidia-smi-topo, kubernetes-nodes, ...; found out if left away."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Which accelerator, where the file does not say.")
    ] = None,
    devices_per_node: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Accelerators of a node.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="How many such nodes there are.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="Network between nodes, e.g. ib400.")] = None,
    topology_label: Annotated[
        list[str] | None, typer.Option(help="Label with a node's switch, the nearest first; repeatable.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; stdout if left away.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the inventory as JSON.")] = False,
) -> None:
    """Import a cluster: nvidia-smi topo -m, rocm-smi --showtopo, Kubernetes nodes, Slurm."""
    from planner.frontend.cluster_imports import import_cluster, inventory_text
    from planner.frontend.cluster_inventory import ImportHints
    from planner.plan.files import write_text

    diagnostics = new_diagnostics()
    hints = ImportHints(
        device=device,
        devices_per_node=devices_per_node,
        num_nodes=nodes,
        network=network,
        topology_labels=tuple(topology_label or ()),
    )
    found, parsed = import_cluster(file, fmt, hints, diagnostics)
    show_diagnostics(diagnostics)
    if out is not None:
        write_text(out, inventory_text(found))
        say(f"wrote {out}: {parsed.num_devices} devices in {len(parsed.groups)} groups")
    if as_json:
        emit_json(found)
    elif out is None:
        emit(inventory_text(found))
