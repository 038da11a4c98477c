"""``newel schema``: print the JSON Schema of a file format."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli.terminal import emit_json
from planner.errors import UnknownNameError


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("schema")(schema)


def schema(
    what: Annotated[str, typer.Argument(help="Which format: plan.")] = "plan",
) -> None:
    """Print the JSON Schema of a file format on stdout."""
    from planner.plan.schema import Plan

    if what != "plan":
        raise UnknownNameError("file format", what, ["plan"])
    emit_json(Plan.model_json_schema())
