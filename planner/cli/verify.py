"""``newel verify``: check a plan with rules that share nothing with the search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit_json, say
from planner.errors import EXIT_OK, EXIT_VERIFICATION_FAILED

if TYPE_CHECKING:
    from planner.verify import VerificationReport


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify")(verify)


def verify(
    plan: Annotated[Path, typer.Argument(help="The plan, a JSON file.")],
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Try more of what could beat the optimum; takes seconds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only what failed.")] = False,
) -> None:
    """Check a plan against the problem it carries; leave with 5 if a rule fails."""
    from planner.plan.serialize import read_plan
    from planner.verify import problem_of, verify_plan

    loaded = read_plan(plan)
    report = verify_plan(loaded, problem_of(loaded, file=str(plan)), thorough=thorough)
    if as_json:
        emit_json(report.as_dict())
    _show(report, quiet=quiet)
    raise typer.Exit(EXIT_OK if report.passed else EXIT_VERIFICATION_FAILED)


def _show(report: VerificationReport, *, quiet: bool) -> None:
    for finding in report.findings:
        if finding.outcome == "failed" or not quiet:
            say(f"{finding.outcome:8}{finding.rule}: {finding.message}")
    failed = len(report.failed_rules)
    say(f"{failed} of {len(report.findings)} rules failed" if failed else "the plan is verified")
