"""CrewAI: tasks (and agents) in YAML or JSON.

A task reads its `context`, or, without one, everything before it. The sequential process runs tasks in
order all the same; the graph keeps only what data needs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import cast

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.frontend.agent_fields import Fields
from planner.frontend.agent_json import text_of
from planner.frontend.yaml_source import parse_document
from planner.ir.agent_graph import AgentGraph

_TASK = re.compile(r"\b(expected_output|async_execution)[\"']?\s*:")


@dataclass(frozen=True, slots=True)
class _CrewAi:
    """Reader of crews."""

    def accepts(self, text: str) -> bool:
        """Whether a task with an expected output stands in the text."""
        return bool(_TASK.search(text)) and "description" in text

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the tasks as calls."""
        del companion
        document = parse_document(text, file=file)
        root = Fields.at(document, (), file=file)
        models = _models(root)
        tasks = _tasks(root)
        draft = Draft(name=PurePath(file).stem, file=file)
        if text_of(root.mapping().get("process")) == "hierarchical":
            draft.guess("the hierarchical process's manager calls are not in the source: left out")
        names: dict[str, str] = {}
        earlier: list[str] = []
        for name, fields in tasks:
            agent = text_of(fields.mapping().get("agent"))
            names[name] = draft.add_call(name, model=models.get(agent, ""))
            for source in _sources(draft, fields, names, earlier):
                draft.connect(source, names[name])
            earlier.append(names[name])
        if not names:
            raise InputError("no tasks", file=file)
        draft.reduce()
        draft.feed_prompts()
        return draft.graph()


def _models(root: Fields) -> dict[str, str]:
    """Model by agent, from `llm`."""
    found: dict[str, str] = {}
    if not root.has("agents"):
        return found
    for name, agent in _named(root.child("agents")):
        llm = agent.mapping().get("llm")
        found[name] = (
            text_of(cast("dict[str, object]", llm).get("model")) if isinstance(llm, dict) else text_of(llm)
        )
    return found


def _tasks(root: Fields) -> list[tuple[str, Fields]]:
    return _named(root.child("tasks") if root.has("tasks") else root)


def _named(fields: Fields) -> list[tuple[str, Fields]]:
    """Return named mappings from a mapping of mappings or a list with names."""
    items: list[tuple[str, Fields]] = []
    if isinstance(fields.data, list):
        for i, value in enumerate(cast("list[object]", fields.data)):
            part = Fields(data=value, path=(*fields.path, i), lines=fields.lines, file=fields.file)
            name = part.mapping().get("name") or part.mapping().get("role")
            items.append((text_of(name) or f"task {i + 1}", part))
        return items
    for name, value in fields.mapping().items():
        part = Fields(data=value, path=(*fields.path, name), lines=fields.lines, file=fields.file)
        part.mapping()
        items.append((name, part))
    return items


def _sources(draft: Draft, fields: Fields, names: dict[str, str], earlier: list[str]) -> list[str]:
    if fields.mapping().get("context") is None:
        return list(earlier)
    wanted = fields.words("context")
    for name in wanted:
        if name not in names:
            raise fields.error(
                "the context is no earlier task", key="context", value=name, allowed=", ".join(names)
            )
    if len(wanted) < len(earlier):
        draft.guess(
            "tasks with a context wait for that context only; the sequential process waits for every task"
        )
    return [names[name] for name in wanted]


IMPORTER = _CrewAi()
