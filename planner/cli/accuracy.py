"""``newel accuracy``: score the cost models against measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit_json, say, stdout_console
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.accuracy.score import Errors, Score


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("accuracy")(accuracy)


def accuracy(  # noqa: PLR0913, PLR0917 - the options of the command
    kernels: Annotated[
        list[Path] | None,
        typer.Option("--kernels", help="CSV of measured GEMM, attention, MoE or collective kernels."),
    ] = None,
    serving: Annotated[
        Path | None,
        typer.Option("--serving", help="CSV of measured serving runs: latencies and throughput."),
    ] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate the runs of --serving too, and compare.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Simulate only so many runs of each kind.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option("--training", help="CSV of measured training runs: step times, throughput, memory."),
    ] = None,
    software: Annotated[
        str | None,
        typer.Option("--software", help="Training stack of all rows of --training, by name or YAML file."),
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="Calibration file to use for its device.")
    ] = None,
    scoreboard: Annotated[
        Path | None,
        typer.Option(
            "--scoreboard", help="Folder of kernel tables: rewrites cost_models/ACCURACY.* (or one section)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Score the cost models against measurements, per source, device and operation (or engine and mode).

    Rows that cannot be priced are counted as refusals with their reasons. Beside the model stand the naive
    roofline and the best constant: the roofline times the one factor that fits these very rows best.
    """
    if simulate or sample is not None:
        _simulate_runs(serving, sample, as_json=as_json)
        return
    if scoreboard is not None:
        _write_scoreboard(scoreboard, serving, training)
        return
    if serving is not None:
        from planner.cli._accuracy_serving import score_table, show

        show(score_table(serving), as_json=as_json)
        return
    if training is not None:
        from planner.cli._accuracy_training import show_training

        show_training(training, software, as_json=as_json)
        return
    if not kernels:
        raise InputError(
            "nothing to score", key="--kernels", hint="Give a CSV, e.g. newel accuracy --kernels gemm.csv"
        )
    _score_kernels(kernels, calibration, as_json=as_json)


def _simulate_runs(serving: Path | None, sample: int | None, *, as_json: bool) -> None:
    if serving is None:
        raise InputError(
            "nothing to simulate", key="--simulate", hint="Give a CSV: newel accuracy --serving runs.csv"
        )
    from planner.cli._accuracy_simulated import show_simulated, simulated_table

    show_simulated(simulated_table(serving, sample), as_json=as_json)


def _write_scoreboard(folder: Path, serving: Path | None, training: Path | None) -> None:
    """Rewrite the scoreboard, or only its section of served models or of training where a table is given."""
    from planner.accuracy.scoreboard import write_scoreboard, write_serving_section, write_training_section
    from planner.cli._accuracy_serving import score_table

    part = ""
    if serving is not None:
        written, part = write_serving_section(score_table(serving)), " (its section of served models alone)"
    elif training is not None:
        written, part = write_training_section(training), " (its section of training alone)"
    else:
        written = write_scoreboard(folder, score_table)
    for path in written:
        say(f"wrote {path}{part}")


def _score_kernels(kernels: list[Path], calibration: Path | None, *, as_json: bool) -> None:
    from planner.accuracy.calibrate import load_calibration
    from planner.accuracy.kernels import read_kernels
    from planner.accuracy.score import score_kernels

    own = load_calibration(calibration) if calibration is not None else None
    scores = [score for path in kernels for score in score_kernels(read_kernels(path), own)]
    if as_json:
        from planner.accuracy.score import scores_as_data

        emit_json(scores_as_data(scores))
    else:
        _print(scores)


def _print(scores: list[Score]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("source", "device", "operation", "format"):
        table.add_column(name, overflow="fold")
    for name in ("rows", "refused", "MAPE", "p50", "p90", "bias", "in 90%", "roofline", "constant"):
        table.add_column(name, justify="right", no_wrap=True)
    for score in scores:
        table.add_row(
            *(escape(text) for text in (score.source, score.device, score.operation, score.fmt)),
            str(score.num_rows),
            str(score.num_refused),
            *_cells(score.model),
            "-" if score.coverage_90 is None else f"{score.coverage_90:.0f}",
            "-" if score.roofline is None else f"{score.roofline.mape:.1f}",
            "-" if score.constant is None else f"{score.constant.mape:.1f}",
        )
    stdout_console().print(table)
    for score in scores:
        for reason, count in score.refusals.items():
            say(f"refused: {count} rows of {score.source} on {score.device}, {score.operation}: {reason}")


def _cells(errors: Errors | None) -> tuple[str, str, str, str]:
    if errors is None:
        return ("-", "-", "-", "-")
    return (f"{errors.mape:.1f}", f"{errors.p50:.1f}", f"{errors.p90:.1f}", f"{errors.bias:+.1f}")
