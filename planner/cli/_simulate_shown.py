"""What ``newel simulate`` prints of served requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from planner.cli.terminal import emit_json, say

if TYPE_CHECKING:
    from planner.simulate.serving import SimulationReport


def show_reports(reports: Mapping[str, SimulationReport], *, as_json: bool) -> None:
    """Print reports by model, the name being empty where a plan has only one."""
    if as_json:
        told = {name: report.as_dict() for name, report in reports.items()}
        emit_json(told.get("", told))
        return
    for name, report in reports.items():
        if name:
            say(f"{name}:")
        _show_report(report)


def _show_report(report: SimulationReport) -> None:
    """Print figures beside predictions, and beside what was measured where the trace is a log."""
    rate = "all at once" if report.rate_rps is None else f"at {report.rate_rps:.3g} per second"
    say(f"{report.num_requests} requests {rate}, {report.duration_s:.0f} s")
    measured = dict(report.measured)
    say(f"{'figure':14}{'simulated':>14}{'predicted':>14}{'apart':>10}" + _heading(measured))
    for name, seen, claimed in report.figures:
        known = f"{claimed:14.4g}{seen / claimed - 1:10.1%}" if claimed else f"{'-':>14}{'-':>10}"
        own = measured.get(name)
        beside = f"{own:14.4g}{seen / own - 1:10.1%}" if own else ""
        say(f"{name:14}{seen:14.4g}{known}{beside}")
    say(f"{report.output_tokens_per_s:.4g} output tokens/s, {report.energy_j / 3.6e6:.4g} kWh")
    for name, hits in report.prefix_hits:
        say(f"{hits:.1%} of the prompt tokens were found in {name}")
    for out in report.verdict.outside:
        say(f"{out.name} lies outside the 90 % interval of the plan, {out.low:.4g} to {out.high:.4g}")
    for broken in report.verdict.broken:
        say(
            f"the limit on {broken.name}, {broken.limit_s:.4g} s, is broken: {broken.simulated_s:.4g} s; "
            "newel plan --refine looks for a plan that keeps it"
        )
    if report.refused:
        say(f"{report.refused} requests are longer than the plan's engines take and were refused")
    if report.interruptions:
        say(f"{report.interruptions} times a request was thrown back and computed again")
    say(f"{'replica':20}{'busy':>8}{'cache':>8}{'peak':>8}")
    for place in report.places:
        shares = (place.busy_share, place.cache_share, place.cache_peak_share)
        say(f"{place.name:20}" + "".join(f"{value:8.1%}" for value in shares))


def _heading(measured: dict[str, float]) -> str:
    return f"{'measured':>14}{'apart':>10}" if measured else ""
