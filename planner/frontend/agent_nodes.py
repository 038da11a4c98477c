"""The nodes of an agent graph's text form."""

from __future__ import annotations

from planner.frontend.agent_fields import Fields
from planner.ir.agent_graph import (
    Human,
    LlmCall,
    Nested,
    Node,
    PromptPart,
    Router,
    Tokens,
    ToolCall,
    Work,
)

_COMMON = ("kind", "join", "copies", "parallel", "deadline_s")


def parse_node(name: str, fields: Fields, nested: Nested | None = None) -> Node:
    """Return a node; `nested` is its work if the caller has read a body.

    Raises
    ------
    InputError
        If a key or a value is wrong.
    """
    return Node(
        name=name,
        work=nested or _work(name, fields),
        join=_join(fields),
        copies=fields.count("copies") or 1,
        parallel=fields.count("parallel"),
        deadline_s=fields.number("deadline_s", above=0.0),
    )


def _join(fields: Fields) -> int | None:
    value = fields.mapping().get("join")
    if value in (None, "all"):
        return None
    return 1 if value == "any" else fields.count("join")


def _work(name: str, fields: Fields) -> Work:
    kind = fields.choice("kind", ("llm", "tool", "router", "human"), "llm")
    if kind == "router":
        fields.only(_COMMON)
        return Router()
    if kind == "human":
        fields.only((*_COMMON, "latency_s", "output"))
        latency = fields.latency("latency_s")
        if latency is None:
            raise fields.error("latency_s is missing")
        return Human(latency=latency, output=fields.tokens("output") or Tokens(mean=0.0))
    return _tool(name, fields) if kind == "tool" else _call(fields)


def _tool(name: str, fields: Fields) -> ToolCall:
    fields.only((*_COMMON, "tool", "latency_s", "output", "limit", "side_effects"))
    latency = fields.latency("latency_s")
    if latency is None:
        raise fields.error("latency_s is missing")
    return ToolCall(
        tool=fields.text("tool", name),
        latency=latency,
        output=fields.tokens("output") or Tokens(mean=0.0),
        limit=fields.count("limit"),
        side_effects=fields.flag("side_effects"),
    )


def _call(fields: Fields) -> LlmCall:
    fields.only((*_COMMON, "model", "models", "prompt", "output", "samples", "keep", "partial_inputs"))
    if fields.has("model") and fields.has("models"):
        raise fields.error("either model or models", key="models")
    output = fields.tokens("output")
    if output is None:
        raise fields.error("output is missing")
    samples = fields.count("samples") or 1
    return LlmCall(
        models=tuple(fields.words("models") or fields.words("model")),
        prompt=tuple(_part(row) for row in fields.rows("prompt")),
        output=output,
        samples=samples,
        keep=fields.count("keep") or samples,
        partial_inputs=fields.flag("partial_inputs"),
    )


def _part(fields: Fields) -> PromptPart:
    """Read {static: N}, {input: N}, {input} or {from: node}, each with an optional share."""
    if fields.is_text:
        if fields.own_text() != "input":
            raise fields.error(
                "unknown part", value=fields.own_text(), allowed="input, {static: N}, {from: node}"
            )
        return PromptPart(kind="input")
    fields.only(("static", "input", "from", "tokens", "share"))
    if sum(key in fields.mapping() for key in ("static", "input", "from")) != 1:
        raise fields.error("a part is one of static, input and from")
    share = fields.text("share", "")
    if "from" in fields.mapping():
        return PromptPart(
            kind="node", source=fields.text("from"), tokens=fields.tokens("tokens"), share=share
        )
    if "static" in fields.mapping():
        return PromptPart(kind="static", tokens=fields.tokens("static"), share=share)
    return PromptPart(kind="input", tokens=fields.tokens("input"), share=share)
