"""``newel plan``: find the best plan for a spec."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.flags import DEFAULT_KIND, overrides, with_spec_flags
from planner.cli.terminal import console, emit, new_diagnostics, say
from planner.errors import EXIT_INFEASIBLE

if TYPE_CHECKING:
    from planner.frontend.spec_tree import Override
    from planner.pipeline import Run
    from planner.plan.schema import Plan


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan")(with_spec_flags(plan))


def plan(  # noqa: PLR0913, PLR0917 - one parameter per option of the command
    flags: dict[str, str | list[str]],
    spec: Annotated[Path | None, typer.Argument(help="Spec file (YAML or JSON).", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Plan file to write.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No table.")] = False,
    print_ir_after: Annotated[
        list[str] | None,
        typer.Option("--print-ir-after", help="Print the IR after a phase, or all.", show_default=False),
    ] = None,
    verify_ir: Annotated[bool, typer.Option("--verify-ir", help="Verify the IR after each phase.")] = False,
    software_profile: Annotated[
        Path | None,
        typer.Option(
            "--software-profile", help="Engine profile to plan with, from calibrate tune.", show_default=False
        ),
    ] = None,
    refine: Annotated[
        bool, typer.Option("--refine", help="Simulate the plan, and search on until its limits hold.")
    ] = False,
    timings: Annotated[bool, typer.Option("--timings", help="Print what each phase took.")] = False,
    record_time: Annotated[bool, typer.Option("--record-time", help="Store the wall time too.")] = False,
) -> None:
    """Find the best plan for a spec, prove it, check it, and write it.

    The spec is a file, flags, or a file changed by flags. The table goes to stderr. The plan goes to
    the file of -o; without one it goes to stdout if that is a file or a pipe, or with --json.
    """
    from planner.cli._software_profile import plan_with
    from planner.pipeline import Run, make_plan
    from planner.plan.serialize import plan_text, write_plan

    if software_profile is not None:
        plan_with(software_profile)
    run = Run(
        diagnostics=new_diagnostics(),
        print_after=tuple(print_ir_after or ()),
        show_ir=lambda phase, text: say(f"--- IR after {phase}\n{text}"),
        verify_between=verify_ir,
        record_time=record_time,
    )
    found = make_plan(spec, run, [*overrides(flags, _kind(spec, flags)), *_refine(asked=refine)])
    if out is not None:
        write_plan(out, found)
    if not quiet:
        _show(found)
    if timings:
        _show_times(run)
    if out is not None:
        say(f"wrote {out}")
    if as_json or (out is None and not _stdout_is_terminal()):
        emit(plan_text(found))
    elif out is None:
        say("The plan is not stored; name a file with -o plan.json.")
    if found.status == "infeasible":
        raise typer.Exit(EXIT_INFEASIBLE)


def _refine(*, asked: bool) -> list[Override]:
    from planner.frontend.spec_tree import Override

    return [Override(path=("search", "refine"), value=True, origin="--refine")] if asked else []


def _kind(spec: Path | None, flags: dict[str, str | list[str]]) -> str:
    """Return the kind that flags or spec state; a wrong one is reported when the spec is read."""
    from planner.cli.flags import FLAG_SETS
    from planner.frontend.spec_tree import spec_from_file

    stated = flags.get("kind")
    if stated is None and spec is not None:
        stated = spec_from_file(spec).data.get("kind", DEFAULT_KIND)  # pyright: ignore[reportAssignmentType]
    return stated if isinstance(stated, str) and stated in FLAG_SETS.names() else DEFAULT_KIND


def _show(found: Plan) -> None:
    from planner.report.plan_view import show_plan

    show_plan(found, console())


def _show_times(run: Run) -> None:
    for name, time_s in run.times_s.items():
        say(f"{name:12} {time_s:8.3f} s")


def _stdout_is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
