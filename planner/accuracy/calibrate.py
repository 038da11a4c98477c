"""Calibration files: fitted from kernel tables, for one device or for all that are shipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import yaml

from cost_models.curves import PEER_HOST, POOLED
from cost_models.facts import DeviceFacts
from hardware_profiles.calibration import CalibrationFile, read_calibration
from hardware_profiles.loader import canonical
from hardware_profiles.schema import DeviceProfile, FittedCurve, Source
from planner.accuracy.devices import device_links, find_device
from planner.accuracy.fitting import Sample, Target, fit_curves, fit_family, samples_of, version_of
from planner.accuracy.kernels import KernelTable
from planner.accuracy.table import FloatArray
from planner.errors import InputError

ANYTHING = "any"
_MAX_FAMILY_ROWS = 400
_OTHER_HOST = 3.0
"""Share of a link's rate over that of another version from which the two were timed on different hosts."""


def fit_device(
    tables: Sequence[KernelTable], device: DeviceProfile, source_title: str, *, day: date
) -> CalibrationFile:
    """Return the calibration of `device` fitted on its rows in `tables`.

    Raises
    ------
    InputError
        If no row is of this device and can be fitted.
    """
    groups = [g for table in tables for g in table.groups if _is_device(g.category["gpu"], device)]
    samples = samples_of(groups, _target(device))
    curves = fit_curves(samples, "measured")
    if not curves:
        seen = sorted({g.category["gpu"] for table in tables for g in table.groups})
        raise InputError(
            f"no rows that {device.name} could be calibrated with",
            file=tables[0].file,
            value=", ".join(seen[:20]),
            hint="The gpu column must name the device, and eight rows of an operation are the least.",
        )
    return CalibrationFile(
        device=device.name,
        sources={"measured": Source(title=source_title, url="none", date=day.isoformat())},
        curves=tuple(curves),
    )


def device_samples(tables: Sequence[KernelTable], device: DeviceProfile) -> list[Sample]:
    """Return the samples of one device in all tables."""
    groups = [g for table in tables for g in table.groups if _is_device(g.category["gpu"], device)]
    return samples_of(groups, _target(device))


def fit_shared(
    by_device: dict[str, list[Sample]], name: str, source: Source, *, engines: bool = False
) -> CalibrationFile:
    """Return the calibration that devices share, judged on each device while fitted on the others.

    With `engines` every engine has curves of its own beside the pooled ones.
    """
    thinned = {device: [_thinned(sample) for sample in found] for device, found in by_device.items()}
    curves = fit_family(thinned, "measured", engines=engines)
    curves += [
        c.model_copy(update={"fmt": ANYTHING}) for c in curves if c.fmt == "bf16" and c.software == POOLED
    ]
    return CalibrationFile(device=name, sources={"measured": source}, curves=tuple(curves))


def calibration_text(calibration: CalibrationFile) -> str:
    """Return a calibration as YAML, in a stable order."""
    data = calibration.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(data, sort_keys=False, width=110, allow_unicode=True)


def load_calibration(path: Path) -> CalibrationFile:
    """Read a calibration file.

    Raises
    ------
    InputError
        If it cannot be read or does not match the schema.
    """
    try:
        return read_calibration(path)
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", file=str(path)) from error
    except ValueError as error:
        raise InputError(str(error)) from error


def devices_in(tables: Iterable[KernelTable]) -> dict[str, DeviceProfile]:
    """Return the devices that occur in the tables and have a profile, by profile name."""
    found: dict[str, DeviceProfile] = {}
    for name in sorted({g.category["gpu"] for table in tables for g in table.groups}):
        device = find_device(name)
        if device is not None:
            found[device.name] = device
    return found


def families(devices: Iterable[DeviceProfile]) -> dict[str, list[str]]:
    """Return the names of the devices of each family."""
    grouped: dict[str, list[str]] = defaultdict(list)
    for device in devices:
        grouped[device.family].append(device.name)
    return dict(grouped)


def write_text(path: Path, text: str) -> None:
    """Write a file beside its place and move it there."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise InputError(f"cannot write the file ({error.strerror})", file=str(path)) from error


def shipped_curves(curves: Sequence[FittedCurve]) -> tuple[FittedCurve, ...]:
    """Return the curves worth shipping: of several versions of one engine, the newest that was fitted.

    Of engines' all-reduce also the one of a host whose links carry much more, marked `PEER_HOST`.
    """
    newest: dict[tuple[str, str, str, str], FittedCurve] = {}
    for curve in curves:
        name, _, kernel = curve.software.partition(":")
        engine = name.split("-")[0]
        key = (curve.operation, curve.fmt, engine, kernel)
        held = newest.get(key)
        if held is None or version_of(name) > version_of(held.software.partition(":")[0]):
            newest[key] = curve
    return (*newest.values(), *_quicker_hosts(curves, newest.values()))


def _quicker_hosts(curves: Sequence[FittedCurve], shipped: Collection[FittedCurve]) -> Iterator[FittedCurve]:
    """Yield the all-reduce of another host where that of every shipped version is far slower.

    Several versions of one kernel differ by percents; by a multiple at large messages they were timed on
    hosts with other paths between devices, through memory and between sockets or past both.
    """
    reduce = "custom_all_reduce"
    best = max((_widest_eff(c) for c in shipped if c.operation == reduce), default=0.0)
    others = [c for c in curves if c.operation == reduce and _widest_eff(c) > _OTHER_HOST * best > 0.0]
    if others:
        quickest = max(others, key=_widest_eff)
        yield quickest.model_copy(update={"software": f"{quickest.software}:{PEER_HOST}"})


def _widest_eff(curve: FittedCurve) -> float:
    """Return the share of the link's rate that the widest group reaches."""
    sizes = [int(name.removeprefix("eff_n")) for name in curve.constants if name.startswith("eff_n")]
    return curve.constants[f"eff_n{max(sizes)}"] if sizes else 0.0


def _is_device(name: str, device: DeviceProfile) -> bool:
    if canonical(name) in {canonical(own) for own in (device.name, *device.aliases)}:
        return True
    found = find_device(name)
    return found is not None and found.name == device.name


def _target(device: DeviceProfile) -> Target:
    return Target(facts=DeviceFacts.of(device), links=device_links(device.name))


def _thinned(sample: Sample) -> Sample:
    """Return the sample with at most a few hundred rows, evenly spread, so that no device dominates."""
    size = sample.measured_s.size
    if size <= _MAX_FAMILY_ROWS:
        return sample
    keep = np.linspace(0, size - 1, _MAX_FAMILY_ROWS).astype(np.int64)
    predict = sample.form.predict

    def predict_kept(constants: Mapping[str, float]) -> FloatArray:
        return predict(constants)[keep]

    return replace(
        sample,
        form=replace(sample.form, predict=predict_kept),
        measured_s=sample.measured_s[keep],
        held_out=sample.held_out[keep],
    )
