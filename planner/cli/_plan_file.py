"""Reading a plan file: every defect of it becomes one message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.plan.schema import Plan

_MAX_BYTES = 64 * 2**20


def read_plan_file(path: Path) -> Plan:
    """Read and validate a plan.

    Raises
    ------
    InputError
        If the file cannot be read, is no JSON, or is no plan of this schema.
    """
    from pydantic import ValidationError

    from planner.plan.schema import Plan

    text = _read(path)
    try:
        return Plan.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"this is no valid plan: {first['msg']}",
            file=str(path),
            key=".".join(str(part) for part in first["loc"]) or None,
            value=first["input"] if first["loc"] else ...,
            hint="`newel schema plan` prints what a plan looks like.",
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read the plan: {error.strerror}", file=str(path)) from error
    if len(text) > _MAX_BYTES:
        raise InputError("the file is too large for a plan", file=str(path), allowed=f"{_MAX_BYTES} bytes")
    return text
