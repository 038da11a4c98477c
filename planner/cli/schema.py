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
    what: Annotated[str, typer.Argument(help="Which format: plan or spec.")] = "plan",
    kind: Annotated[str, typer.Option("--kind", help="Kind of problem, for a spec.")] = "serving",
) -> None:
    """Print the JSON Schema of plan files or of specs on stdout."""
    if what == "plan":
        from planner.plan.schema import Plan

        emit_json(Plan.model_json_schema())
    elif what == "spec":
        from planner.frontend.specs import SPECS

        emit_json(SPECS.get(kind).model_json_schema())
    else:
        raise UnknownNameError("file format", what, ["plan", "spec"])
