"""Reading a plan file: every defect of it becomes one message."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.plan.schema import Plan


def read_plan_file(path: Path) -> Plan:
    """Read and validate a plan.

    Raises
    ------
    InputError
        If the file cannot be read, is no JSON, or is no plan of this schema.
    """
    from planner.plan.serialize import read_plan

    return read_plan(path)
