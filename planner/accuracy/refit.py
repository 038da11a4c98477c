"""Refits everything that is shipped, from one folder of kernel tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hardware_profiles.calibration import CalibrationFile, calibration_folder, read_calibration
from hardware_profiles.schema import Source
from planner.accuracy.calibrate import (
    calibration_text,
    device_samples,
    devices_in,
    families,
    fit_shared,
    shipped_curves,
    write_text,
)
from planner.accuracy.fallback import judged
from planner.accuracy.fitting import Kernel, Sample, fit_curves, outdone_kernels
from planner.accuracy.kernels import KernelTable, read_kernels
from planner.errors import InputError

TABLES = ("gemm.csv", "attention.csv", "moe.csv", "collective.csv", "moe_all_to_all.csv")
SOURCE = Source(
    title="ai-dynamo/aiconfigurator measured kernel tables (Apache-2.0, NVIDIA), sampled",
    url="https://github.com/ai-dynamo/aiconfigurator",
    date="2026-08-21",
)


def read_tables(folder: Path) -> list[KernelTable]:
    """Read the kernel tables of a folder.

    Raises
    ------
    InputError
        If the folder holds none of them.
    """
    found = [folder / name for name in TABLES if (folder / name).is_file()]
    if not found:
        raise InputError("no kernel tables in the folder", file=str(folder), allowed=", ".join(TABLES))
    return [read_kernels(path) for path in found]


def refit_all(folder: Path, output: Path | None, *, on_progress: Callable[[str], None]) -> list[Path]:
    """Fit every device of the tables, its family and the generic defaults; return the files written."""
    target = output or calibration_folder()
    (target / "families").mkdir(parents=True, exist_ok=True)
    tables = [_public(table) for table in read_tables(folder)]
    devices = devices_in(tables)
    samples: dict[str, list[Sample]] = {}
    written: list[Path] = []
    for name, device in devices.items():
        samples[name] = device_samples(tables, device)
    outdone: dict[str, frozenset[Kernel]] = {}
    for members in families(devices.values()).values():
        outdone |= outdone_kernels({name: samples[name] for name in members})
    for name in devices:
        on_progress(f"fitting {name}")
        curves = shipped_curves(fit_curves(samples[name], "measured", outdone[name]))
        if curves:
            found = CalibrationFile(device=name, sources={"measured": SOURCE}, curves=curves)
            written.append(_write(target / f"{name}.yaml", found))
    for family, members in families(devices.values()).items():
        on_progress(f"fitting the family {family}")
        shared = fit_shared({name: samples[name] for name in members}, family, SOURCE, engines=True)
        if shared.curves:
            written.append(_write(target / "families" / f"{family}.yaml", shared))
    on_progress("fitting the generic defaults")
    written.append(_write(target / "families" / "generic.yaml", fit_shared(samples, "generic", SOURCE)))
    on_progress("judging what stands in for the unmeasured")
    shared = read_calibration(calibration_folder() / "families" / "fallback.yaml")
    written.append(_write(target / "families" / "fallback.yaml", judged(shared, samples, tables)))
    return written


def _public(table: KernelTable) -> KernelTable:
    """Return the table with the rows that may be fitted: one source, the others judge."""
    kept = tuple(g for g in table.groups if g.category["source"].startswith("aic:"))
    return KernelTable(
        kind=table.kind, file=table.file, num_rows=table.num_rows, groups=kept, refused=table.refused
    )


def _write(path: Path, calibration: CalibrationFile) -> Path:
    write_text(path, calibration_text(calibration))
    return path
