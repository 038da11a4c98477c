"""``newel graph-fleet``: an agent graph and the fleet that serves its models, planned together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit_json, new_diagnostics, say, show_diagnostics

if TYPE_CHECKING:
    from planner.graph_fleet import GraphFleet


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("graph-fleet")(graph_fleet)


def graph_fleet(
    spec: Annotated[Path, typer.Argument(help="A spec of an agent graph with a section `serve`.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write the plan of the graph.", show_default=False),
    ] = None,
    fleet: Annotated[
        Path | None, typer.Option("--fleet", help="Where to write the plan of the fleet.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
) -> None:
    """Split a graph's deadline over its calls so that the fleet behind it is the least, and plan both."""
    from planner.graph_fleet import plan_graph_fleet
    from planner.pipeline import Run
    from planner.plan.serialize import write_plan

    run = Run(diagnostics=new_diagnostics())
    answer = plan_graph_fleet(spec, run)
    if as_json:
        emit_json(answer.as_dict())
    else:
        _show(answer)
        show_diagnostics(run.diagnostics)
    for path, plan in ((out, answer.graph), (fleet, answer.fleet)):
        if path is not None:
            write_plan(path, plan)
            say(f"wrote {path}")


def _show(answer: GraphFleet) -> None:
    goal = answer.fleet.objective
    say(f"{goal.name}: {goal.value:.6g} {goal.unit}   bound {answer.bound:.6g}   gap {answer.gap:.2%}")
    say(f"{'model':24}{'requests/s':>12}{'bunched':>9}{'to first':>12}{'per token':>12}  served by")
    for name, (ttft_s, tpot_s) in answer.limits.items():
        traffic = answer.traffic[name]
        pools = [f"{p.replicas} x {p.role} on {p.device}" for p in answer.fleet.pools if p.model == name]
        pools = pools or [f"{p.replicas} x {p.device}" for p in answer.fleet.pools if name in p.name]
        rate = answer.rate_rps * traffic.per_run
        say(
            f"{name:24}{rate:12.4g}{traffic.burstiness:9.3g}{ttft_s * 1e3:9.4g} ms{tpot_s * 1e3:9.4g} ms  "
            + ", ".join(pools)
        )
    say(f"a run ends after {answer.graph.predicted['latency_s'].value:.4g} s in the mean at these limits")
    words = {
        "grid": "limits of the grid",
        "equal": "equal times for calls in a row",
        "proportional": "one time per token for all models",
    }
    for name, value in {"grid": answer.grid, **answer.naive}.items():
        taken = " (taken)" if name == answer.split else ""
        say(f"{words[name]}: " + ("no fleet" if value is None else f"{value:.6g} {goal.unit}{taken}"))
