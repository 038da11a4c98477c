"""``newel reshard``: what going on with a training run under another plan costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json
from planner.errors import EXIT_OK, InputError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("reshard")(reshard_plans)


def reshard_plans(
    before: Annotated[Path, typer.Argument(help="The training plan that runs.")],
    after: Annotated[Path, typer.Argument(help="The training plan to go on with.")],
    storage: Annotated[
        str | None, typer.Option("--storage", help="Bandwidth of shared storage, all nodes: 2TB/s.")
    ] = None,
    node_bandwidth: Annotated[
        str | None, typer.Option("--node-bandwidth", help="Network of a node; the cluster's if absent.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Say which states have to move between two training plans, over the network or through storage."""
    from planner.plan.serialize import read_plan
    from planner.report.figures import figure
    from planner.resharding import reshard

    found = reshard(
        read_plan(before),
        read_plan(after),
        storage_bytes_per_s=_bandwidth(storage, "--storage"),
        node_bytes_per_s=_bandwidth(node_bandwidth, "--node-bandwidth"),
    )
    if as_json:
        emit_json(asdict(found))
        return EXIT_OK
    lines = [
        f"states        {figure(found.state_bytes, 'B')}",
        f"to move       {figure(found.total_bytes, 'B')} over all nodes",
        f"busiest node  {found.busiest_node or '-'} receives {figure(found.busiest_node_bytes, 'B')}",
        f"over network  {figure(found.time_s, 's')}",
    ]
    if found.through_storage_s is not None:
        lines.append(f"over storage  {figure(found.through_storage_s, 's')} (write and read back)")
    emit("\n".join(lines))
    return EXIT_OK


def _bandwidth(text: str | None, option: str) -> float | None:
    if text is None:
        return None
    from hardware_profiles.errors import ProfileError
    from hardware_profiles.units import parse_quantity

    try:
        value = parse_quantity(text, "bytes_per_s", allow_bare=False)
    except ProfileError as error:
        raise InputError(error.message, key=option, value=text, allowed=error.allowed or None) from None
    if value <= 0:
        raise InputError("must be above zero", key=option, value=text)
    return value
