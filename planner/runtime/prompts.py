"""Messages of a call: its prompt parts in order, and how a half-written answer goes on when inputs grow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from planner.ir.agent_graph import LlmCall, ToolCall
from planner.runtime.compiled import CallPlan, CompiledPlan

Message = dict[str, str]
_REFERENCE = re.compile(r"\$\{([^{}]+)\}")
_ROUND = re.compile(r"@+\d+")
_BODY_END = re.compile(r"(\[\d+\])?/exit$")

GREW = "More of what you were given has arrived."
GO_ON = "Go on with your answer exactly where it stopped; do not repeat or restart it."
IN_PARTS = (
    "What follows is still being written and more of it will come; begin your answer with what is there."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a producer has given a call so far: its number, node, text."""

    source: int
    node: str
    text: str


def node_texts(given: Sequence[Given], node: str) -> list[str]:
    """Return the texts of a node among the producers of a call (rounds of loops count as the node)."""
    return [g.text for g in given if _BODY_END.sub("", g.node) == node or g.node == node]


def base_name(node: str) -> str:
    """Return a node without the rounds of loops."""
    return _ROUND.sub("", node)


def messages_of(
    call: CallPlan, question: str, given: Sequence[Given], earlier: Callable[[str], list[str]]
) -> list[Message]:
    """Return the messages that start a call.

    Parameters
    ----------
    call
        A model call.
    question
        The input: the user's, or what its body of the graph was given.
    given
        What its producers wrote.
    earlier
        Returns the texts of a node that is no producer (of an earlier round, say).
    """
    work = call.flat.work
    assert isinstance(work, LlmCall)
    pieces: list[tuple[str, str]] = []
    for part in work.prompt:
        if part.kind == "static":
            text = part.text
        elif part.kind == "input":
            text = question
        else:
            name = base_name(part.source)
            text = joined(node_texts(given, name) or earlier(name))
        if text:
            pieces.append((part.role, text))
    if not work.prompt:
        pieces = [("user", question), *(("user", g.text) for g in given)]
    if not any(role != "system" for role, _ in pieces):
        pieces.append(("user", question))
    return _merged(pieces)


def _merged(pieces: Sequence[tuple[str, str]]) -> list[Message]:
    found: list[Message] = []
    for role, text in pieces:
        if found and found[-1]["role"] == role:
            found[-1]["content"] += "\n\n" + text
        else:
            found.append({"role": role, "content": text})
    return found


def joined(texts: Sequence[str]) -> str:
    """Return texts as one, numbered if there are several."""
    if len(texts) < 2:
        return "".join(texts)
    return "\n\n".join(f"[{i}] {text}" for i, text in enumerate(texts, start=1))


class GrowingPrompt:
    """The messages of a call whose inputs grow while it answers.

    As turns, everything that was sent stays where it was: each round adds the answer so far and what is
    new, so a prefix cache holds all but that. As a prefill, the prompt is rebuilt in its usual order and
    the answer so far is the beginning of the last message.
    """

    def __init__(self, *, turns: bool) -> None:
        self._turns = turns
        self._messages: list[Message] = []
        self._sent: dict[int, int] = {}
        self._answered = 0

    def next_round(
        self, fresh: Callable[[], list[Message]], given: Sequence[Given], answer: str, *, whole: bool
    ) -> list[Message]:
        """Return the messages of the next round; `whole`: nothing more will come."""
        if not self._turns or not self._messages:
            self._messages = fresh()
            if not whole:
                self._messages[-1]["content"] += f"\n\n({IN_PARTS})"
            if answer and self._turns:
                self._messages += [{"role": "assistant", "content": answer}, _user(GO_ON)]
        else:
            new = [(g.node, g.text[self._sent.get(g.source, 0) :]) for g in given]
            parts = [f"{name}: {text}" for name, text in new if text]
            words = "\n\n".join([GREW, *parts, GO_ON]) if parts else GO_ON
            own = answer[self._answered :]
            self._messages += [{"role": "assistant", "content": own}, _user(words)] if own else [_user(words)]
        self._sent = {g.source: len(g.text) for g in given}
        self._answered = len(answer)
        if answer and not self._turns:
            return [*self._messages, {"role": "assistant", "content": answer}]
        return list(self._messages)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def arguments_of(call: CallPlan, question: str, given: Sequence[Given]) -> str:
    """Return the arguments of a tool with references filled in; without any, what its producers wrote."""
    work = call.flat.work
    assert isinstance(work, ToolCall)
    if not work.arguments:
        return joined([g.text for g in given]) or question

    def filled(match: re.Match[str]) -> str:
        name = match[1].strip()
        if name == "input":
            return question
        texts = node_texts(given, base_name(name))
        return joined(texts) if texts else match[0]

    return _REFERENCE.sub(filled, work.arguments)


def items_of(text: str, *, whole: bool) -> list[str]:
    """Return the items of a list: elements of a JSON array once it is whole, else lines that are not blank.

    Of a list that is still written only lines that have ended count.
    """
    stripped = text.strip()
    if stripped.startswith("["):
        if not whole:
            return []
        try:
            found: object = json.loads(stripped)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, list):
            return [i if isinstance(i, str) else json.dumps(i, ensure_ascii=False) for i in found]  # pyright: ignore[reportUnknownVariableType] - JSON
    lines = text.split("\n")
    if not whole:
        lines = lines[:-1]
    return [line.strip() for line in lines if line.strip()]


def textless(plan: CompiledPlan) -> list[tuple[str, float]]:
    """Return (node, tokens) of static prompt parts that the plan counts but that have no text."""
    found: dict[str, float] = {}
    for call in plan.calls:
        if isinstance(call.flat.work, LlmCall):
            missing = [p for p in call.flat.work.prompt if p.kind == "static" and not p.text and p.tokens]
            if missing:
                found[call.base] = sum(p.tokens.mean for p in missing if p.tokens)
    return sorted(found.items())
