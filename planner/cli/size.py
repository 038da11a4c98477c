"""``newel size``: the least hardware that meets the limits, across device kinds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit_json, new_diagnostics, say
from planner.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from planner.sizing import Answer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("size")(size)


def size(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    spec: Annotated[Path, typer.Argument(help="A serving or fleet spec; its cluster may be left out.")],
    device: Annotated[
        list[str] | None, typer.Option("--device", help="Device kinds to try; repeatable.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option("--objective", help="min_cost, min_devices or min_power.")
    ] = None,
    max_nodes: Annotated[
        int, typer.Option("--max-nodes", min=1, max=4096, help="Most nodes of each kind.")
    ] = 64,
    mixed: Annotated[bool, typer.Option("--mixed/--alone", help="Try all kinds together too.")] = True,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write the best plan.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Find the least hardware (count, kind, price, power) that carries the traffic within its limits."""
    from hardware_profiles.loader import load_device
    from planner.frontend.profile_lookup import profile_errors
    from planner.pipeline import Run
    from planner.plan.serialize import write_plan
    from planner.sizing import Sizing
    from planner.sizing import size as sized

    for kind in device or ():
        if not kind.endswith((".yaml", ".yml")):
            with profile_errors(key="--device"):
                load_device(kind)
    sizing = Sizing(kinds=tuple(device or ()), goal=objective, max_nodes=max_nodes, mixed=mixed)
    answers = sized(spec, sizing, Run(diagnostics=new_diagnostics()))
    best = answers[0]
    if as_json:
        emit_json([answer.as_dict() for answer in answers])
    else:
        _show(answers)
    if best.plan is None:
        say("no kind of hardware meets the limits")
        raise typer.Exit(EXIT_INFEASIBLE)
    if out is not None:
        write_plan(out, best.plan)
        say(f"wrote {out}")


def _show(answers: list[Answer]) -> None:
    say(f"{'kinds':32}{'devices':>24}{'nodes':>7}{'USD/h':>10}{'kW':>8}")
    for answer in answers:
        kinds = " + ".join(answer.kinds)
        if answer.plan is None:
            say(f"{kinds:32}  {answer.reason[:100]}")
            continue
        devices = " + ".join(f"{count} {kind}" for kind, count in answer.devices)
        usd, power = answer.predicted("usd_per_hour"), answer.predicted("power_w") or 0.0
        money = "-" if usd is None else f"{usd:.2f}"
        nodes = sum(count for _, count in answer.nodes)
        say(f"{kinds:32}{devices:>24}{nodes:7}{money:>10}{power / 1e3:8.2f}")
