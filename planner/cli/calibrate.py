"""``newel calibrate``: fit the constants of the cost models to measurements of your own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli.terminal import emit, emit_json, say
from planner.errors import InputError

if TYPE_CHECKING:
    from hardware_profiles.calibration import CalibrationFile

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="File to write; standard output otherwise.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, help="Fit the cost models to measurements of your own."
    )
    group.command("fit")(fit)
    group.command("measure")(measure)
    group.command("refit")(refit)
    group.command("tune")(tune)
    app.add_typer(group, name="calibrate")


def fit(
    kernels: Annotated[
        list[Path], typer.Option("--kernels", help="CSV of measured kernels; may be repeated.")
    ],
    device: Annotated[str, typer.Option("--device", help="Device profile, by name or as a YAML file.")],
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fit as JSON on stdout.")] = False,
) -> None:
    """Fit the constants of every operation that the tables cover; the held-out error stands beside each.

    Put the file into a folder `calibrations/` under one that NEWEL_PROFILES names, and every plan uses it.
    """
    from datetime import UTC, datetime

    from planner.accuracy.calibrate import fit_device
    from planner.accuracy.devices import device_profile
    from planner.accuracy.kernels import read_kernels

    profile = device_profile(device)
    tables = [read_kernels(path, device=profile.name) for path in kernels]
    title = ", ".join(path.name for path in kernels)
    fitted = fit_device(tables, profile, f"kernel tables {title}", day=datetime.now(UTC).date())
    _write(fitted, output, as_json=as_json)


def measure(
    device: Annotated[str, typer.Option("--device", help="Torch device: cuda:0, cpu, ...")] = "cpu",
    profile: Annotated[
        str,
        typer.Option("--profile", help="Device profile of it; by default found by the device's own name."),
    ] = "",
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the fit as JSON on stdout.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A few small sizes only.")] = False,
) -> None:
    """Time matrix products, attention and copies on this machine with torch, and fit them."""
    from datetime import UTC, datetime

    from planner.accuracy.measure import measure_device
    from planner.accuracy.torch_timer import TorchTimer

    timer = TorchTimer.on(device)
    fitted = measure_device(timer, profile, quick=quick, day=datetime.now(UTC).date(), on_progress=say)
    _write(fitted, output, as_json=as_json)


def tune(
    software: Annotated[
        str,
        typer.Option("--software", help="Profile to start from: a trainer's, or an engine and its version."),
    ],
    training: Annotated[
        Path | None, typer.Option("--training", help="CSV of a few training runs of your own cluster.")
    ] = None,
    serving: Annotated[
        Path | None, typer.Option("--serving", help="CSV of at most five served runs of your own cluster.")
    ] = None,
    output: Output = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Tune at most five constants of a shipped profile to a few runs of your own.

    Put the profile of a trainer into a folder `trainers/` under one that NEWEL_PROFILES names, or name the
    file; give that of an engine to newel plan --software-profile, or name the file in NEWEL_PROFILES.
    """
    if (training is None) == (serving is None):
        raise InputError("give either --training or --serving", key="calibrate tune")
    if serving is not None:
        from planner.cli._calibrate_serving import tune_serving

        tune_serving(serving, software, output, as_json=as_json)
    elif training is not None:
        from planner.cli._calibrate_training import tune_training

        tune_training(training, software, output, as_json=as_json)


def refit(
    data: Annotated[Path, typer.Option("--data", help="Folder of kernel tables of all devices.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder to write to.")] = None,
) -> None:
    """Refit all shipped calibrations and family defaults from a folder of kernel tables."""
    from planner.accuracy.refit import refit_all

    for path in refit_all(data, output, on_progress=say):
        say(f"wrote {path}")


def _write(fitted: CalibrationFile, output: Path | None, *, as_json: bool) -> None:
    from planner.accuracy.calibrate import calibration_text, write_text

    if as_json:
        emit_json(fitted.model_dump(mode="json"))
    if output is not None:
        write_text(output, calibration_text(fitted))
    elif not as_json:
        emit(calibration_text(fitted))
    for curve in fitted.curves:
        say(
            f"{curve.operation} {curve.fmt} ({curve.software}): {curve.num_rows} rows, held-out error "
            f"{curve.held_out_mape:.1f} % mean, {curve.held_out_p50:.1f} % median, {curve.bias:+.1f} % bias"
        )
