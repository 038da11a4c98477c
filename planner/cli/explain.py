"""``newel explain``: why this plan, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json, new_diagnostics


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(
    plan: Annotated[Path, typer.Argument(help="The plan, a JSON file.")],
    why_not: Annotated[
        list[str] | None,
        typer.Option("--why-not", help="Choices to compare with: tp=8 or tp=4,weights=bf16."),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Do not solve again with limits and hardware varied.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation as JSON.")] = False,
) -> None:
    """Say why a plan is what it is: bottleneck, binding limits, value of more, why not something else."""
    from planner.cli.flags import parse_pairs
    from planner.pipeline import Run
    from planner.pipeline import explain as explained
    from planner.plan.serialize import read_plan
    from planner.report.explain_view import explanation_data, explanation_lines

    choices = [parse_pairs(text, "--why-not") for text in why_not or []]
    run = Run(diagnostics=new_diagnostics())
    found = explained(read_plan(plan), run, why_not=choices, vary=not quick)
    if as_json:
        emit_json(explanation_data(found))
    else:
        emit("\n".join(explanation_lines(found)))
