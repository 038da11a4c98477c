"""``newel replan``: the plan after a loss, with as little moved as possible."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, new_diagnostics, say, show_diagnostics
from planner.errors import EXIT_INFEASIBLE


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("replan")(replan)


def replan(
    plan: Annotated[Path, typer.Argument(help="The plan, a JSON file.")],
    lost: Annotated[
        list[str],
        typer.Option(
            "--lost", help="What is lost: a node, a group, or a part such as h100/rack-2; repeatable."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Plan file to write.", show_default=False)
    ] = None,
    minimise_moves: Annotated[
        bool, typer.Option("--minimise-moves/--plan-anew", help="Keep what stands, or plan from scratch.")
    ] = True,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            max=1.0,
            help="Look for the best objective first, and give up this share of it to move less.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON on stdout.")] = False,
) -> None:
    """Plan again after the loss of nodes: the fewest replicas started, then the best objective."""
    from planner.pipeline import Run
    from planner.plan.diff import diff_plans
    from planner.plan.serialize import plan_text, read_plan, write_plan
    from planner.replanning import Loss, plan_anew
    from planner.replanning import replan as replanned

    run = Run(diagnostics=new_diagnostics())
    before = read_plan(plan)
    loss = Loss(nodes=tuple(lost), tolerance=tolerance)
    found = replanned(before, loss, run) if minimise_moves else plan_anew(before, loss, run)
    show_diagnostics(run.diagnostics)
    if out is not None:
        write_plan(out, found)
    if as_json or out is None:
        emit(plan_text(found))
    if found.status == "infeasible":
        reason = found.infeasibility.nearest_relaxation if found.infeasibility is not None else ""
        say(f"what is left cannot carry the traffic; nearest feasible change: {reason}")
        raise typer.Exit(EXIT_INFEASIBLE)
    moves = [change for change in diff_plans(before, found).moves if change.after is not None]
    say(
        f"{found.status}: {found.objective.name} {found.objective.value:.6g} {found.objective.unit}, "
        f"{len(moves)} replicas moved or started"
    )
