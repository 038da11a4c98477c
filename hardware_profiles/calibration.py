"""Fitted constants of kernels: the files under calibrations/, and those that a user fitted.

`calibrations/<device>.yaml` holds curves fitted on that device, `calibrations/families/<family>.yaml`
those that devices of a family share when they were not measured themselves, `families/generic.yaml` those
of all devices, and `families/fallback.yaml` round numbers for what nobody measured. A folder named in
NEWEL_PROFILES may hold `calibrations/<device>.yaml` of the user's own; those come first.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hardware_profiles.schema import FittedCurve, Source

_ROOT = Path(__file__).parent / "calibrations"
_MAX_FILE_BYTES = 4_000_000
SHARED_FAMILIES = ("generic", "fallback")
_ENVIRONMENT_VARIABLE = "NEWEL_PROFILES"
try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # pragma: no cover - PyYAML built without libyaml
    from yaml import SafeLoader as _Loader


class CalibrationFile(BaseModel):
    """Curves of one device or family, with the sources that they were fitted on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    sources: dict[str, Source]
    curves: tuple[FittedCurve, ...]
    notes: str = ""


def read_calibration(path: Path) -> CalibrationFile:
    """Read one calibration file.

    Raises
    ------
    ValueError
        If the file is too large, is not YAML or does not match the schema.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{path}: calibration file is larger than {_MAX_FILE_BYTES} bytes")
    try:
        data: object = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        return CalibrationFile.model_validate(data)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a YAML file: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path}: {place}: {first['msg']}") from error


def device_curves(device: str) -> tuple[FittedCurve, ...]:
    """Return the curves of `device`, the user's before ours; empty if it was never fitted."""
    listed = os.environ.get(_ENVIRONMENT_VARIABLE, "")
    folders = (*(Path(part) / "calibrations" for part in listed.split(os.pathsep) if part), _ROOT)
    return tuple(curve for folder in folders for curve in _curves_in(folder / f"{_safe(device)}.yaml"))


def family_curves(family: str) -> tuple[FittedCurve, ...]:
    """Return the defaults of a device family, empty if it has none."""
    return _curves_in(_ROOT / "families" / f"{_safe(family)}.yaml")


def calibrated_devices() -> tuple[str, ...]:
    """Return the names of all devices with curves of their own that are shipped."""
    return tuple(sorted(path.stem for path in _ROOT.glob("*.yaml")))


def calibration_folder() -> Path:
    """Return the folder of the shipped calibrations."""
    return _ROOT


@cache
def _curves_in(path: Path) -> tuple[FittedCurve, ...]:
    return read_calibration(path).curves if path.is_file() else ()


def _safe(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
