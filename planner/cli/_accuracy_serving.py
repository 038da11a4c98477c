"""Serving side of ``newel accuracy``: what names in a table of runs mean, and how scores are shown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.terminal import emit_json, say, stdout_console

if TYPE_CHECKING:
    from planner.accuracy.score import Errors
    from planner.accuracy.serving.score import ScoredRun
    from planner.ir.cluster import NodeGroup
    from planner.ir.model_graph import ModelGraph

_SHOWN_GROUPS = 5


def score_table(path: Path) -> list[ScoredRun]:
    """Return the rows of a table of serving runs with their predictions."""
    from planner.accuracy.serving.run import score_serving

    return score_serving(path, find_model, find_group)


def find_model(name: str) -> ModelGraph:
    """Return a bundled model by name; remarks on it are not shown."""
    from planner.diagnostics import Diagnostics
    from planner.frontend.models import bundled_model

    return bundled_model(name, Diagnostics())


def find_group(device: str, num_devices: int) -> NodeGroup:
    """Return so many devices in nodes of their usual kind."""
    from hardware_profiles.loader import load_device, load_node
    from planner.diagnostics import Diagnostics
    from planner.frontend.clusters import parse_cluster

    per_node = load_node(load_device(device).default_node).devices_per_node
    nodes = -(-num_devices // per_node)
    return parse_cluster(f"{nodes}x{per_node}x{device}", source=None, diagnostics=Diagnostics()).groups[0]


def show(runs: Sequence[ScoredRun], *, as_json: bool) -> None:
    """Print the scores of runs: a table on stdout, refusals and regret on stderr, or all as JSON."""
    from planner.accuracy.serving.score import choices, refusals, regret_summary, scores_as_data

    if as_json:
        emit_json(scores_as_data(runs))
        return
    _print_scores(runs)
    for source, reasons in refusals(runs).items():
        for reason, count in reasons.items():
            say(f"refused: {count} rows of {source}: {reason}")
    found = choices(runs)
    if not found:
        return
    told = regret_summary(found)
    say(
        f"alternatives: {told['num_groups']} groups, mean regret {told['mean']:.1f} %, "
        f"90th percentile {told['p90']:.1f} %, worst {told['worst']:.1f} %, "
        f"mean rank correlation {told['mean_spearman']:.2f}"
    )
    for choice in sorted(found, key=lambda c: -c.regret)[:_SHOWN_GROUPS]:
        if choice.regret > 0.0:
            say(
                f"  regret {choice.regret:.1f} %: {choice.model} on {choice.device} under {choice.engine}, "
                f"{choice.load}: chose {choice.chosen}, best was {choice.best}"
            )


def _print_scores(runs: Sequence[ScoredRun]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from planner.accuracy.serving.score import score_runs

    table = Table(box=None, pad_edge=False)
    for name in ("source", "device", "engine", "mode", "metric"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "refused", "MAPE", "p50", "p90", "bias", "in 90%", "roofline", "constant"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in score_runs(runs):
        table.add_row(
            *(escape(t) for t in (score.source, score.device, score.engine, score.mode, score.metric)),
            str(score.num_rows),
            str(score.num_refused),
            *_cells(score.model),
            "-" if score.coverage_90 is None else f"{score.coverage_90:.0f}",
            "-" if score.roofline is None else f"{score.roofline.p50:.0f}",
            "-" if score.constant is None else f"{score.constant.p50:.0f}",
        )
    stdout_console().print(table)


def _cells(errors: Errors | None) -> tuple[str, str, str, str]:
    if errors is None:
        return ("-", "-", "-", "-")
    return (f"{errors.mape:.1f}", f"{errors.p50:.1f}", f"{errors.p90:.1f}", f"{errors.bias:+.1f}")
