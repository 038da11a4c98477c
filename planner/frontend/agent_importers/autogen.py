"""AutoGen GraphFlow: the component JSON of ``team.dump_component()``, or its directed graph alone.

Activation all / any of a node is its join; edges with a condition are branches. The component holds the
models and their endpoints too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.frontend.agent_json import (
    JsonObject,
    as_object,
    as_objects,
    is_object,
    looks_like_json,
    parse_json,
    text_of,
)
from planner.ir.agent_graph import START, AgentGraph


@dataclass(frozen=True, slots=True)
class _AutoGen:
    """Reader of GraphFlow teams."""

    def accepts(self, text: str) -> bool:
        """Whether the text has a graph with activations."""
        data = looks_like_json(text)
        return isinstance(data, dict) and '"activation"' in text and ("config" in data or "nodes" in data)

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the graph with models and joins."""
        del companion
        data = as_object(parse_json(text, file=file), file=file, key="")
        alone: JsonObject = {"graph": data}
        config = as_object(data["config"], file=file, key="config") if "config" in data else alone
        graph = as_object(config.get("graph"), file=file, key="config.graph")
        nodes = as_object(graph.get("nodes"), file=file, key="config.graph.nodes")
        draft = Draft(name=text_of(config.get("name")) or PurePath(file).stem, file=file)
        agents = _agents(config, file)
        for name in nodes:
            _add_agent(draft, name, agents.get(name))
        for name, value in nodes.items():
            row = as_object(value, file=file, key=f"config.graph.nodes.{name}")
            _add_edges(draft, name, as_objects(row.get("edges", []), file=file, key=f"{name}.edges"))
        start = text_of(graph.get("default_start_node"))
        if start in draft.nodes:
            draft.connect(START, start)
        draft.bound_cycles()
        draft.feed_prompts()
        for name, value in nodes.items():
            row = as_object(value, file=file, key=name)
            several = sum(t == name and s != START for s, t in draft.edges) > 1
            if text_of(row.get("activation")) == "any" and several:
                draft.nodes[name] = replace(draft.nodes[name], join=1)
        return draft.graph()


def _agents(config: JsonObject, file: str) -> dict[str, JsonObject]:
    """Return configurations of the participants by name."""
    found: dict[str, JsonObject] = {}
    for i, row in enumerate(as_objects(config.get("participants", []), file=file, key="config.participants")):
        inner = as_object(row.get("config"), file=file, key=f"config.participants[{i}].config")
        found[text_of(inner.get("name"))] = inner
    return found


def _add_agent(draft: Draft, name: str, agent: JsonObject | None) -> None:
    client = agent.get("model_client") if agent else None
    settings: JsonObject = {}
    if is_object(client):
        inner = as_object(client, file=draft.file, key=f"{name}.model_client").get("config")
        settings = (
            as_object(inner, file=draft.file, key=f"{name}.model_client.config") if is_object(inner) else {}
        )
    if agent is not None and not settings:
        draft.guess(f"agent {name!r} has no model client: taken as a model call of the default model")
    model = draft.use_model(text_of(settings.get("model")), endpoint=text_of(settings.get("base_url")))
    draft.add_call(name, model=model)


def _add_edges(draft: Draft, source: str, rows: list[JsonObject]) -> None:
    branches = [row for row in rows if row.get("condition") is not None or row.get("condition_function")]
    if branches:
        draft.guess(f"the branches of {source!r} carry no probabilities: equal ones assumed")
    for row in rows:
        target = text_of(row.get("target"))
        if target not in draft.nodes:
            raise InputError(
                "the edge ends at an unknown node", file=draft.file, key=f"{source}.edges", value=target
            )
        share = 1.0 / max(len(branches), 2) if row in branches else 1.0
        draft.connect(source, target, probability=share)


IMPORTER = _AutoGen()
