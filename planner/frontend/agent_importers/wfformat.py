"""WfFormat: a recorded workflow as a graph of tools with the measured runtimes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.frontend.agent_json import (
    JsonObject,
    as_list,
    as_object,
    as_objects,
    looks_like_json,
    number_of,
    parse_json,
    text_of,
)
from planner.ir.agent_graph import AgentGraph, Latency


@dataclass(frozen=True, slots=True)
class _WfFormat:
    """Reader of workflow records."""

    def accepts(self, text: str) -> bool:
        """Whether the text is JSON with a workflow in it."""
        data = looks_like_json(text)
        return isinstance(data, dict) and "workflow" in data and '"specification"' in text

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the tasks as tools."""
        del companion
        data = as_object(parse_json(text, file=file), file=file, key="")
        workflow = as_object(data.get("workflow"), file=file, key="workflow")
        specification = as_object(workflow.get("specification"), file=file, key="workflow.specification")
        execution = workflow.get("execution")
        times = _times(as_object(execution, file=file, key="workflow.execution") if execution else {}, file)
        draft = Draft(name=text_of(data.get("name")) or PurePath(file).stem, file=file)
        names: dict[str, str] = {}
        rows = as_objects(specification.get("tasks"), file=file, key="workflow.specification.tasks")
        for row in rows:
            key = text_of(row.get("id"))
            seconds = times.get(key)
            latency = None if seconds is None else Latency(mean_s=seconds)
            names[key] = draft.add_tool(key, tool=text_of(row.get("name")) or key, latency=latency)
        for row in rows:
            _connect(draft, names, row)
        if not names:
            raise InputError("the workflow has no tasks", file=file, key="workflow.specification.tasks")
        draft.guess("times of moving files between machines are left out")
        return draft.graph()


def _times(execution: JsonObject, file: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in as_objects(execution.get("tasks", []), file=file, key="workflow.execution.tasks"):
        seconds = number_of(row.get("runtimeInSeconds"))
        if seconds is not None:
            found[text_of(row.get("id"))] = seconds
    return found


def _connect(draft: Draft, names: dict[str, str], row: JsonObject) -> None:
    name = names[text_of(row.get("id"))]
    for key in ("children", "parents"):
        for other in as_list(row.get(key) or [], file=draft.file, key=f"{name}.{key}"):
            there = names.get(text_of(other))
            if there is None:
                raise InputError(
                    "an edge to an unknown task", file=draft.file, key=f"{name}.{key}", value=other
                )
            draft.connect(*((name, there) if key == "children" else (there, name)))


IMPORTER = _WfFormat()
