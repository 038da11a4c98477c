"""The text form of an agent graph: read with line numbers in every error.

Example
-------
::

    kind: agents
    name: mixture
    models:
      small: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.02, overhead_s: 0.05, slots: 8}
    nodes:
      a: {kind: llm, model: small, prompt: [{input: 300}], output: 512}
      b: {kind: llm, model: small, prompt: [{input: 300}], output: 512}
      merge: {kind: llm, model: small, prompt: [{input: 300}, {from: a}, {from: b}], output: 512}

Edges that a prompt implies (``from``) need not be listed. Loops, branches and allowed kinds of flow
stand under ``edges``.
"""

from __future__ import annotations

from pathlib import Path

from planner.errors import InputError, nearest
from planner.frontend.agent_fields import Fields
from planner.frontend.agent_nodes import COMMON_KEYS, parse_node
from planner.frontend.yaml_source import Document, KeyPath, parse_document, read_document
from planner.ir.agent_graph import (
    DRAFT_MODES,
    EDGE_KINDS,
    END,
    LOSSLESS_KINDS,
    START,
    TEXT_TESTS,
    AgentGoal,
    AgentGraph,
    AgentModel,
    Condition,
    Draft,
    DraftMode,
    Edge,
    EdgeKind,
    LlmCall,
    Nested,
    Node,
    TextTest,
    Tokens,
)
from planner.ir.agent_graph_check import graph_faults

_MAX_DRAFTED, _MOST_DRAFTED = 16, 256
_ENDS = {"start": START, "end": END}
GOALS: tuple[AgentGoal, ...] = ("min_ttft", "min_latency", "min_cost", "max_throughput")
GRAPH_KEYS = (
    "kind",
    "name",
    "models",
    "nodes",
    "edges",
    "input_tokens",
    "deadline_s",
    "budget_usd",
    "period_s",
    "min_quality",
    "goal",
    "priority",
    "guesses",
)


def read_agent_graph(path: Path) -> AgentGraph:
    """Return the graph in a file.

    Raises
    ------
    InputError
        If the file cannot be read or the graph is malformed; the line is named.
    """
    return graph_of(read_document(path), file=str(path))


def parse_agent_graph(text: str, *, file: str = "<text>") -> AgentGraph:
    """Return the graph in a text.

    Raises
    ------
    InputError
        If the graph is malformed; the line is named.
    """
    return graph_of(parse_document(text, file=file), file=file)


def graph_of(document: Document, *, file: str, root: KeyPath = ()) -> AgentGraph:
    """Return the graph that stands at `root` of a document.

    Raises
    ------
    InputError
        If the graph is malformed.
    """
    fields = Fields.at(document, root, file=file)
    graph = _graph(fields)
    for fault in graph_faults(graph):
        path = _text_path(document, root, fault.path)
        close = nearest(str(fault.value), fault.allowed) if fault.allowed else None
        raise InputError(
            fault.message,
            file=file,
            line=_line(document, path),
            key=".".join(map(str, fault.path)),
            value=fault.value,
            allowed=", ".join(fault.allowed[:20]) or None,
            hint=fault.hint or (f"Did you mean {close!r}?" if close else None),
        )
    return graph


def _line(document: Document, path: KeyPath) -> int | None:
    while path and path not in document.lines:
        path = path[:-1]
    return document.lines.get(path)


def _text_path(document: Document, root: KeyPath, path: tuple[str | int, ...]) -> KeyPath:
    """Return where in the text a fault of the graph stands: implied edges stand at their consumer."""
    full: KeyPath = (*root, *path)
    if full in document.lines:
        return full
    return tuple("model" if part == "models" and i > 1 else part for i, part in enumerate(full))


def _graph(fields: Fields, *, nested: bool = False) -> AgentGraph:
    fields.only(GRAPH_KEYS)
    models = tuple(_model(name, part) for name, part in fields.children("models"))
    nodes = tuple(_node(name, part) for name, part in fields.children("nodes"))
    edges = tuple(_edge(part) for part in fields.rows("edges"))
    return AgentGraph(
        name=fields.text("name", "" if nested else "graph"),
        nodes=nodes,
        edges=with_implied_edges(nodes, edges),
        models=models,
        input_tokens=fields.tokens("input_tokens") or Tokens(mean=0.0),
        deadline_s=fields.number("deadline_s", above=0.0),
        budget_usd=fields.number("budget_usd", least=0.0),
        period_s=fields.number("period_s", above=0.0),
        min_quality=fields.number("min_quality"),
        goal=fields.choice("goal", GOALS, "min_latency"),
        priority=fields.whole("priority"),
        guesses=tuple(fields.words("guesses")),
    )


def with_implied_edges(nodes: tuple[Node, ...], edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    """Return the edges, and one per prompt part that takes from a node no edge leads from."""
    known = {(e.source, e.target) for e in edges}
    implied: list[Edge] = []
    for node in nodes:
        if not isinstance(node.work, LlmCall):
            continue
        for part in node.work.prompt:
            if part.kind == "node" and (part.source, node.name) not in known:
                known.add((part.source, node.name))
                kinds = (*LOSSLESS_KINDS, "staircase") if node.work.partial_inputs else LOSSLESS_KINDS
                implied.append(Edge(source=part.source, target=node.name, kinds=kinds))
    return (*edges, *implied)


def _node(name: str, fields: Fields) -> Node:
    if name in _ENDS:
        raise fields.error("in edges this name stands for the graph's own ends: choose another", value=name)
    if fields.choice("kind", ("llm", "tool", "router", "human", "graph"), "llm") != "graph":
        return parse_node(name, fields)
    fields.only((*COMMON_KEYS, "graph"))
    return parse_node(name, fields, Nested(graph=_graph(fields.child("graph"), nested=True)))


def _model(name: str, fields: Fields) -> AgentModel:
    fields.only(
        (
            "prefill_tokens_per_s",
            "decode_s_per_token",
            "overhead_s",
            "usd_per_million_input",
            "usd_per_million_output",
            "quality",
            "slots",
            "replicas",
            "calls_per_minute",
            "tokens_per_minute",
            "cache_block_tokens",
            "endpoint",
            "guessed",
            "drafts",
        )
    )
    return AgentModel(
        name=name,
        prefill_tokens_per_s=fields.required("prefill_tokens_per_s", above=0.0),
        decode_s_per_token=fields.required("decode_s_per_token", least=0.0),
        overhead_s=fields.required("overhead_s", least=0.0),
        usd_per_input_token=(fields.number("usd_per_million_input", least=0.0) or 0.0) / 1e6,
        usd_per_output_token=(fields.number("usd_per_million_output", least=0.0) or 0.0) / 1e6,
        quality=fields.number("quality"),
        slots=fields.count("slots") or 1,
        replicas=fields.count("replicas") or 1,
        calls_per_minute=fields.count("calls_per_minute"),
        tokens_per_minute=fields.count("tokens_per_minute"),
        cache_block_tokens=fields.count("cache_block_tokens", least=0) or 0,
        endpoint=fields.text("endpoint", ""),
        guessed=fields.flag("guessed"),
        drafts=tuple(_draft(draft, part) for draft, part in fields.children("drafts")),
    )


def _draft(name: str, fields: Fields) -> Draft:
    """Read {mode, acceptance, decode_s_per_token, max_tokens, layers_at_once, check_growth, slots, ...}."""
    fields.only(
        (
            *("mode", "acceptance", "decode_s_per_token", "max_tokens", "layers_at_once", "check_growth"),
            *("slots", "usd_per_million_output"),
        )
    )
    acceptance = fields.required("acceptance", least=0.0)
    if acceptance > 1.0:
        raise fields.error("not a share", key="acceptance", value=acceptance, allowed="0 to 1")
    mode: DraftMode = fields.choice("mode", DRAFT_MODES, "serial")
    if fields.has("layers_at_once") and mode != "layer_parallel":
        raise fields.error("only drafts of mode layer_parallel have it", key="layers_at_once")
    tokens = fields.count("max_tokens") or _MAX_DRAFTED
    if tokens > _MOST_DRAFTED:
        raise fields.error("too many", key="max_tokens", value=tokens, allowed=f"up to {_MOST_DRAFTED}")
    return Draft(
        name=name,
        mode=mode,
        acceptance=acceptance,
        decode_s_per_token=fields.required("decode_s_per_token", least=0.0),
        max_tokens=tokens,
        layers_at_once=fields.count("layers_at_once") or 1,
        check_growth=fields.number("check_growth", least=0.0) or 0.0,
        slots=fields.count("slots"),
        usd_per_output_token=(fields.number("usd_per_million_output", least=0.0) or 0.0) / 1e6,
    )


def _edge(fields: Fields) -> Edge:
    """Read ``a -> b`` or {from, to, kinds, probability, max_rounds, when}."""
    if fields.is_text:
        words = [w.strip() for w in fields.own_text().split("->")]
        if len(words) != 2 or not all(words):
            raise fields.error("an edge is written a -> b", value=fields.own_text())
        return Edge(source=_end(words[0]), target=_end(words[1]))
    fields.only(("from", "to", "kinds", "probability", "max_rounds", "when"))
    kinds: list[EdgeKind] = [k for k in EDGE_KINDS if k in fields.words("kinds", EDGE_KINDS)]
    probability = fields.number("probability", least=0.0)
    return Edge(
        source=_end(fields.text("from")),
        target=_end(fields.text("to")),
        kinds=tuple(kinds) if fields.has("kinds") else LOSSLESS_KINDS,
        probability=1.0 if probability is None else probability,
        max_rounds=fields.count("max_rounds"),
        when=_condition(fields.child("when")) if fields.has("when") else None,
    )


def _condition(fields: Fields) -> Condition:
    """Read {contains: word}, {not_contains: word} and so on: one test."""
    known: dict[str, tuple[TextTest, bool]] = {
        name: (test, name != test) for test in TEXT_TESTS for name in (test, f"not_{test}")
    }
    fields.only(tuple(known))
    if len(fields.mapping()) != 1:
        raise fields.error("a condition is one test", value=fields.data, allowed=", ".join(known))
    name = next(iter(fields.mapping()))
    test, negate = known[name]
    return Condition(test=test, value=fields.text(name), negate=negate)


def _end(name: str) -> str:
    return _ENDS.get(name, name)
