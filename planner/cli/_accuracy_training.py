"""The training side of ``newel accuracy``: tables of scores, groups and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planner.cli.terminal import emit_json, say, stdout_console

if TYPE_CHECKING:
    from planner.accuracy.score import Errors
    from planner.accuracy.training.score import TrainingReport


def show_training(path: Path, software: str | None, *, as_json: bool) -> None:
    """Score a table of training runs and print the result."""
    from planner.accuracy.training.report import report_as_data
    from planner.accuracy.training.rows import read_training
    from planner.accuracy.training.score import score_training
    from planner.accuracy.training.software import named_software

    forced = named_software(software) if software is not None else None
    report = score_training(read_training(path), forced)
    if as_json:
        emit_json(report_as_data(report))
    else:
        _print(report)


def _print(report: TrainingReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from planner.accuracy.training.report import summary

    table = Table(box=None, pad_edge=False)
    for name in ("source", "device", "software"):
        table.add_column(name, overflow="fold")
    figures = ("rows", "refused", "MAPE", "p50", "p90", "bias", "in 90%", "roofline")
    for name in (*figures, "constant", "left out", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in report.scores:
        table.add_row(
            *(escape(text) for text in (score.source, score.device, ", ".join(score.software))),
            str(score.num_rows),
            str(score.num_refused),
            *_cells(score.model),
            "-" if score.coverage_90 is None else f"{score.coverage_90:.0f}",
            "-" if score.roofline is None else f"{score.roofline.mape:.1f}",
            "-" if score.constant is None else f"{score.constant.mape:.1f}",
            "-" if score.left_out is None else f"{score.left_out.mape:.1f}",
            "-" if score.memory is None else f"{score.memory.mape:.1f}",
        )
    stdout_console().print(table)
    groups = Table(box=None, pad_edge=False)
    for name in ("group", "devices", "batch", "plans", "Spearman", "regret"):
        groups.add_column(name, overflow="fold", justify="left" if name == "group" else "right")
    for group in report.groups:
        rank = "-" if group.spearman is None else f"{group.spearman:.2f}"
        groups.add_row(
            escape(f"{group.model}, {group.source}"),
            f"{group.num_devices} {group.device}",
            str(group.global_batch),
            str(group.num_plans),
            rank,
            f"{group.regret_pct:.1f}",
        )
    if report.groups:
        stdout_console().print(groups)
    for refusal in report.refusals:
        say(f"refused: line {refusal.line}, {refusal.source} on {refusal.device}: {refusal.reason}")
    for name, value in summary(report).items():
        say(f"{name}: {value}")


def _cells(errors: Errors | None) -> tuple[str, str, str, str]:
    if errors is None:
        return ("-", "-", "-", "-")
    return (f"{errors.mape:.1f}", f"{errors.p50:.1f}", f"{errors.p90:.1f}", f"{errors.bias:+.1f}")
