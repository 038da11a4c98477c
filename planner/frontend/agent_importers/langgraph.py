"""LangGraph: the JSON of ``get_graph().to_json()``, better with the builder's internals beside it.

The JSON flattens joins that wait for all producers into plain edges, drops the degree of Send and drops the
targets of undeclared branches. Internals (nodes, edges, waiting_edges, branches of the compiled graph's
builder) bring the joins back; what stays unknown is guessed and said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePath

from planner.errors import InputError
from planner.frontend.agent_draft import Draft
from planner.frontend.agent_json import (
    JsonObject,
    as_list,
    as_object,
    as_objects,
    is_object,
    looks_like_json,
    number_of,
    parse_json,
    text_of,
)
from planner.ir.agent_graph import END, START, AgentGraph, Latency, LlmCall, Tokens

_TOOL_NAME = re.compile(r"tool|retriev|search|fetch|rerank|lookup", re.IGNORECASE)
_GUESSED_COPIES = 3
_ENDS = {"__start__": START, "__end__": END}


@dataclass(frozen=True, slots=True)
class _LangGraph:
    """Reader of LangGraph graphs."""

    def accepts(self, text: str) -> bool:
        """Whether the text is a LangGraph graph."""
        data = looks_like_json(text)
        if not isinstance(data, dict):
            return False
        return '"__start__"' in text and ("edges" in data and "nodes" in data)

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the graph, joins taken from the internals where they are there."""
        data = as_object(parse_json(text, file=file), file=file, key="")
        draft = Draft(name=PurePath(file).name.split(".")[0], file=file)
        for row in as_objects(data.get("nodes"), file=file, key="nodes"):
            if text_of(row.get("id")) not in _ENDS:
                _add_node(draft, row)
        plain, branches = _split(draft, as_objects(data.get("edges"), file=file, key="edges"), file)
        for source, target in plain:
            draft.connect(source, target)
        _add_branches(draft, branches)
        _check_orphans(draft, file)
        waiting = _waiting(companion, file)
        draft.bound_cycles()
        draft.feed_prompts()
        _set_joins(draft, waiting)
        return draft.graph()


def _add_node(draft: Draft, row: JsonObject) -> None:
    name = text_of(row.get("id"))
    given = row.get("metadata")
    metadata = as_object(given, file=draft.file, key=name) if is_object(given) else {}
    latency = number_of(metadata.get("latency_s"))
    if latency is not None or (_TOOL_NAME.search(name) and not metadata.get("model")):
        if latency is None:
            draft.guess(f"node {name!r} is taken for a tool because of its name")
        draft.add_tool(name, latency=None if latency is None else Latency(mean_s=latency))
        return
    output, prompt = (
        number_of(metadata.get("est_output_tokens")),
        number_of(metadata.get("est_prompt_tokens")),
    )
    added = draft.add_call(
        name,
        model=text_of(metadata.get("model")),
        output=None if output is None else Tokens(mean=output),
        prompt=None if prompt is None else Tokens(mean=prompt),
    )
    copies = number_of(metadata.get("copies"))
    if copies is not None and copies >= 1:
        draft.nodes[added] = replace(draft.nodes[added], copies=int(copies))
    if metadata.get("partial_inputs") is True:
        work = draft.nodes[added].work
        if isinstance(work, LlmCall):
            draft.nodes[added] = replace(draft.nodes[added], work=replace(work, partial_inputs=True))


def _split(
    draft: Draft, rows: list[JsonObject], file: str
) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Plain edges, and the targets of branches by source."""
    plain: list[tuple[str, str]] = []
    branches: dict[str, list[str]] = {}
    for i, row in enumerate(rows):
        ends = [_ENDS.get(text_of(row.get(k)), text_of(row.get(k))) for k in ("source", "target")]
        for end in ends:
            if end not in draft.nodes and end not in (START, END):
                raise InputError("the edge ends at an unknown node", file=file, key=f"edges[{i}]", value=end)
        if row.get("conditional"):
            branches.setdefault(ends[0], []).append(ends[1])
        else:
            plain.append((ends[0], ends[1]))
    return plain, branches


def _add_branches(draft: Draft, branches: dict[str, list[str]]) -> None:
    for source, targets in branches.items():
        if len(targets) == 1 and targets[0] in draft.nodes:
            # one declared target and no way out: a Send to a number of copies that the JSON does not hold
            draft.connect(source, targets[0])
            node = draft.nodes[targets[0]]
            if node.copies == 1:
                draft.nodes[targets[0]] = replace(node, copies=_GUESSED_COPIES)
                draft.guess(
                    f"{source} -> {targets[0]} is a Send of unknown degree: {_GUESSED_COPIES} copies assumed"
                )
            continue
        draft.guess(f"the branches of {source!r} carry no probabilities: equal ones assumed")
        for target in targets:
            draft.connect(source, target, probability=1.0 / len(targets))


def _check_orphans(draft: Draft, file: str) -> None:
    """Connect nodes whose incoming branch was not declared, where only one node can be its source."""
    targets = {t for _, t in draft.edges}
    orphans = [n for n in draft.nodes if n not in targets]
    if not orphans:
        return
    ending = [s for s, t in draft.edges if t == END and s not in orphans]
    if len(ending) != 1:
        raise InputError(
            "no edge leads to some nodes: their branch has undeclared targets",
            file=file,
            key="edges",
            value=", ".join(orphans),
            hint="Give add_conditional_edges a list of targets and export again.",
        )
    draft.guess(f"no edge leads to {', '.join(orphans)}: taken as undeclared branches of {ending[0]!r}")
    del draft.edges[ending[0], END]
    share = 1.0 / (len(orphans) + 1)
    for name in [*orphans, END]:
        draft.connect(ending[0], name, probability=share)


def _waiting(companion: str, file: str) -> dict[str, set[str]] | None:
    """Return the producers that a node waits for, by the builder's waiting_edges; None without them."""
    if not companion:
        return None
    data = as_object(parse_json(companion, file=f"{file} (internals)"), file=file, key="internals")
    builder = as_object(data.get("builder", data), file=file, key="internals.builder")
    found: dict[str, set[str]] = {}
    for entry in as_list(builder.get("waiting_edges", []), file=file, key="internals.builder.waiting_edges"):
        pair = as_list(entry, file=file, key="internals.builder.waiting_edges")
        if len(pair) == 2:
            sources = as_list(pair[0], file=file, key="internals.builder.waiting_edges")
            found.setdefault(text_of(pair[1]), set()).update(text_of(s) for s in sources)
    return found


def _set_joins(draft: Draft, waiting: dict[str, set[str]] | None) -> None:
    """Set joins: declared ones wait for all; separate edges fire on the first.

    Separate edges from nodes of one superstep meet and count as one arrival.
    """
    depth = _supersteps(draft)
    for name, node in draft.nodes.items():
        edges = [e for (s, t), e in draft.edges.items() if t == name and e.max_rounds is None and s != START]
        plain = [e.source for e in edges if e.probability == 1.0]
        if len(plain) < 2:
            continue
        if waiting is None:
            draft.guess(f"the JSON does not say whether {name!r} waits for all its producers: all assumed")
        elif waiting.get(name, set()) >= set(plain) or len({depth.get(s) for s in plain}) == 1:
            continue
        else:
            draft.nodes[name] = replace(node, join=1)
            draft.guess(
                f"{name!r} has separate edges from different supersteps: it starts with the first of them"
            )


def _supersteps(draft: Draft) -> dict[str, int]:
    """Return the superstep in which a node first runs: edges from the start, loops left out."""
    depth: dict[str, int] = {}
    level = [t for s, t in draft.edges if s == START]
    step = 0
    while level and step <= len(draft.nodes):
        for name in level:
            depth[name] = max(depth.get(name, 0), step)
        level = [
            t for (s, t), e in draft.edges.items() if s in level and t in draft.nodes and e.max_rounds is None
        ]
        step += 1
    return depth


IMPORTER = _LangGraph()
