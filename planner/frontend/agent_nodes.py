"""The nodes of an agent graph's text form."""

from __future__ import annotations

from math import ceil

from planner.frontend.agent_fields import Fields
from planner.ir.agent_graph import (
    FAILURE_POLICIES,
    ROLES,
    Human,
    LlmCall,
    Nested,
    Node,
    PromptPart,
    Role,
    Router,
    Tokens,
    ToolCall,
    Work,
)

COMMON_KEYS = ("kind", "join", "copies", "parallel", "deadline_s", "on_failure")
CHARS_PER_TOKEN = 4.0
"""Of English text, for a text whose tokens are not stated; such a count is marked as guessed."""


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
        on_failure=fields.choice("on_failure", FAILURE_POLICIES, "fail"),
    )


def _join(fields: Fields) -> int | None:
    value = fields.mapping().get("join")
    if value in (None, "all"):
        return None
    return 1 if value == "any" else fields.count("join")


def _work(name: str, fields: Fields) -> Work:
    kind = fields.choice("kind", ("llm", "tool", "router", "human"), "llm")
    if kind == "router":
        fields.only(COMMON_KEYS)
        return Router()
    if kind == "human":
        fields.only((*COMMON_KEYS, "latency_s", "output"))
        latency = fields.latency("latency_s")
        if latency is None:
            raise fields.error("latency_s is missing")
        return Human(latency=latency, output=fields.tokens("output") or Tokens(mean=0.0))
    return _tool(name, fields) if kind == "tool" else _call(fields)


def _tool(name: str, fields: Fields) -> ToolCall:
    fields.only((*COMMON_KEYS, "tool", "latency_s", "output", "limit", "side_effects", "arguments"))
    latency = fields.latency("latency_s")
    if latency is None:
        raise fields.error("latency_s is missing")
    return ToolCall(
        tool=fields.text("tool", name),
        latency=latency,
        output=fields.tokens("output") or Tokens(mean=0.0),
        limit=fields.count("limit"),
        side_effects=fields.flag("side_effects"),
        arguments=fields.text("arguments", ""),
    )


def _call(fields: Fields) -> LlmCall:
    fields.only((*COMMON_KEYS, "model", "models", "prompt", "output", "samples", "keep", "partial_inputs"))
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
    """Read {static: N}, {text: words}, {input: N}, input or {from: node}; share and role may stand beside."""
    if fields.is_text:
        if fields.own_text() != "input":
            raise fields.error(
                "unknown part",
                value=fields.own_text(),
                allowed="input, {static: N}, {text: words}, {from: node}",
            )
        return PromptPart(kind="input")
    fields.only(("static", "text", "input", "from", "tokens", "share", "role"))
    given = fields.mapping()
    if (
        sum(key in given for key in ("static", "input", "from")) + ("text" in given and "static" not in given)
        != 1
    ):
        raise fields.error("a part is one of static, text, input and from")
    share = fields.text("share", "")
    role: Role = fields.choice("role", ROLES, "user")
    if "from" in given:
        source, tokens = fields.text("from"), fields.tokens("tokens")
        return PromptPart(kind="node", source=source, tokens=tokens, share=share, role=role)
    if "input" in given:
        return PromptPart(kind="input", tokens=fields.tokens("input"), share=share, role=role)
    text = fields.text("text", "")
    tokens = fields.tokens("static") or fields.tokens("tokens")
    if tokens is None and text:
        tokens = Tokens(mean=float(ceil(len(text) / CHARS_PER_TOKEN)), guessed=True)
    return PromptPart(kind="static", tokens=tokens, share=share, text=text, role=role)
