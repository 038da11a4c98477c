"""``newel diff``: what differs between two plans."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff")(diff)


def diff(
    before: Annotated[Path, typer.Argument(help="A plan.")],
    after: Annotated[Path, typer.Argument(help="The plan to compare with it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """Compare two plans: decisions, replicas that moved, predictions, inputs."""
    from planner.plan.diff import diff_plans
    from planner.plan.serialize import read_plan
    from planner.report.diff_view import diff_lines

    found = diff_plans(read_plan(before), read_plan(after))
    if as_json:
        emit_json(asdict(found))
    else:
        emit("\n".join(diff_lines(found)) or "no difference")
