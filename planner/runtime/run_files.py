"""Records of runs in a folder: lengths and times, no prompts and no answers."""

from __future__ import annotations

import json
from pathlib import Path

from planner.errors import InputError
from planner.plan.files import write_text
from planner.runtime.compiled import CompiledPlan
from planner.runtime.records import RunResult

RECORD_KIND = "newel-run"
RECORD_VERSION = 1


def write_run(folder: Path, plan: CompiledPlan, result: RunResult) -> Path:
    """Write the record of a run into a folder, which is made if it is not there; return the file.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder cannot be made: {error.strerror}", file=str(folder)) from None
    data = result.as_dict()
    del data["answers"]
    record = {"kind": RECORD_KIND, "version": RECORD_VERSION, "graph": plan.graph.name, **data}
    path = folder / f"{result.run}.json"
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path
