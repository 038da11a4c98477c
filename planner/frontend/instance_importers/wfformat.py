"""WfFormat: recorded workflows (WfCommons JSON, version 1.4 and 1.5) on machines of given speeds.

A task's recorded runtime is its time on a machine of speed 1. Files that a parent writes and a child reads
cost their bytes over the link's rate when the two run on different machines.
Source of the format: wfcommons/WfFormat, wfcommons-schema.json.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, cast

from planner.errors import InputError
from planner.frontend.instance_text import InstanceSettings, checked_count
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task


@dataclass(frozen=True, slots=True)
class _WfFormat:
    """Reader of workflow records."""

    suffixes: tuple[str, ...] = (".json",)

    def accepts(self, text: str) -> bool:
        """Whether the text is JSON with a workflow in it."""
        return (
            '"workflow"' in text and '"tasks"' in text and '"execution"' in text and '"$schema"' not in text
        )

    def read(self, text: str, *, file: str, settings: InstanceSettings) -> SchedulingProblem:
        """Return the workflow with one mode per machine."""
        workflow = _entry(_parsed(text, file), "workflow", file)
        specification, execution = (
            _entry(workflow, "specification", file),
            _entry(workflow, "execution", file),
        )
        rows = _rows(specification, "tasks", file, "workflow.specification.tasks")
        checked_count(len(rows), file=file, line=1, what="tasks")
        sizes = {
            str(f.get("id")): _number(
                f.get("sizeInBytes", 0), file, "workflow.specification.files.sizeInBytes"
            )
            for f in _rows(specification, "files", file, "workflow.specification.files", optional=True)
        }
        times = {
            str(t.get("id")): _number(
                t.get("runtimeInSeconds"), file, "workflow.execution.tasks.runtimeInSeconds"
            )
            for t in _rows(execution, "tasks", file, "workflow.execution.tasks")
        }
        index = {str(row.get("id")): i for i, row in enumerate(rows)}
        tasks = tuple(_task(str(row.get("id")), times, settings, file) for row in rows)
        machines = tuple(
            Resource(name=_machine(i, s), capacity=1) for i, s in enumerate(settings.machine_speeds)
        )
        return SchedulingProblem(
            name=PurePath(file).stem,
            tasks=tasks,
            resources=machines,
            lags=tuple(_lags(rows, index, sizes, settings, file)),
        )


def _machine(number: int, speed: float) -> str:
    return f"machine {number + 1} (speed {speed:g})"


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise InputError("the file is not JSON", file=file, line=line) from error
    if not isinstance(content, dict):
        raise InputError("the file must hold an object", file=file, line=1)
    return cast("dict[str, Any]", content)


def _entry(content: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    value = content.get(key)
    if not isinstance(value, dict):
        raise InputError("an object is missing", file=file, key=key)
    return cast("dict[str, Any]", value)


def _rows(
    content: dict[str, Any], key: str, file: str, path: str, *, optional: bool = False
) -> list[dict[str, Any]]:
    value = content.get(key, [] if optional else None)
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in cast("list[object]", value)):
        raise InputError("a list of objects is missing", file=file, key=path)
    return cast("list[dict[str, Any]]", value)


def _number(value: object, file: str, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InputError("not a number of at least 0", file=file, key=key, value=value)
    return float(value)


def _task(name: str, times: dict[str, float], settings: InstanceSettings, file: str) -> Task:
    if name not in times:
        raise InputError("a task without a runtime", file=file, key="workflow.execution.tasks", value=name)
    modes = tuple(
        Mode(
            name=_machine(i, speed),
            duration_s=times[name] / speed,
            demands=(Demand(resource=i, amount=1),),
            site=str(i),
        )
        for i, speed in enumerate(settings.machine_speeds)
    )
    return Task(name=name, modes=modes)


def _names(row: dict[str, Any], key: str) -> list[str]:
    value: object = row.get(key)
    return [str(v) for v in cast("list[object]", value)] if isinstance(value, list) else []


def _lags(
    rows: list[dict[str, Any]],
    index: dict[str, int],
    sizes: dict[str, float],
    settings: InstanceSettings,
    file: str,
) -> list[Lag]:
    written = [set(_names(row, "outputFiles")) for row in rows]
    edges: set[tuple[int, int]] = set()
    for i, row in enumerate(rows):
        for key, forward in (("children", True), ("parents", False)):
            for name in _names(row, key):
                if name not in index:
                    raise InputError(
                        "an edge to an unknown task",
                        file=file,
                        key=f"workflow.specification.tasks.{key}",
                        value=name,
                    )
                edges.add((i, index[name]) if forward else (index[name], i))
    return [
        Lag(
            before=before,
            after=after,
            off_site_s=sum(
                sizes.get(f, 0.0) for f in sorted(written[before] & set(_names(rows[after], "inputFiles")))
            )
            / settings.link_bytes_per_s,
        )
        for before, after in sorted(edges)
    ]


IMPORTER = _WfFormat()
