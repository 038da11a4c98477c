"""DSPy: a trace of predictors with their inputs and outputs, as JSON.

A saved program (dump_state) has signatures but no edges, so a run on a dummy model is recorded instead:
a list of {predictor, inputs, outputs, model?, usage?}. An edge goes from the predictor whose output value
turns up in a later input. The history of a language model (lm.history: {prompt, messages, outputs, usage,
model}) is read the same way: fields are those between the marks of the chat adapter, or of a JSON object.

Usage is flat, as in a history, or by language model, as of a prediction (get_lm_usage).
Format: https://github.com/stanfordnlp/dspy/blob/main/dspy/clients/base_lm.py
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import cast

from planner.errors import InputError
from planner.frontend.agent_draft import GUESSED_CHARS_PER_TOKEN, Draft
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
from planner.ir.agent_graph import AgentGraph, Tokens

_MIN_CONTAINED_CHARS = 8
_MARKER = re.compile(r"\[\[ ## (\w{1,200}) ## \]\]")
_PROMPT_KEYS = ("prompt_tokens", "input_tokens")
_OUTPUT_KEYS = ("completion_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class _Dspy:
    """Reader of recorded runs."""

    def accepts(self, text: str) -> bool:
        """Whether the text is a trace, or a saved program (to refuse it with a reason)."""
        data = looks_like_json(text)
        if isinstance(data, list):
            rows = as_list(cast("object", data), file="", key="")
            return '"predictor"' in text or (
                bool(rows) and is_object(rows[0]) and _is_history(_object(rows[0]))
            )
        return isinstance(data, dict) and '"signature"' in text and '"demos"' in text

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the predictors as calls, connected by value."""
        del companion
        data = parse_json(text, file=file)
        if is_object(data):
            raise InputError(
                "a saved program has no edges",
                file=file,
                hint="Run it once inside dspy.context(trace=[]) and save the trace as a list of "
                "{predictor, inputs, outputs}.",
            )
        draft = Draft(name=PurePath(file).stem, file=file)
        outputs: list[tuple[str, list[str]]] = []
        for i, recorded in enumerate(as_objects(data, file=file, key="")):
            row = _row_of_history(recorded, draft, i) if _is_history(recorded) else recorded
            inputs = as_object(row.get("inputs"), file=file, key=f"[{i}].inputs")
            answer = as_object(row.get("outputs"), file=file, key=f"[{i}].outputs")
            name = _add(draft, row, inputs, answer)
            values = [text_of(v) for v in inputs.values()]
            for source, made in outputs:
                if any(_taken(value, out) for value in values for out in made):
                    draft.connect(source, name)
            outputs.append((name, [text_of(v) for v in answer.values()]))
        if not draft.nodes:
            raise InputError("the trace is empty", file=file)
        draft.feed_prompts()
        draft.take_outputs_out_of_prompts()
        return draft.graph()


def _is_history(row: JsonObject) -> bool:
    return "predictor" not in row and "outputs" in row and ("messages" in row or "prompt" in row)


def _row_of_history(entry: JsonObject, draft: Draft, number: int) -> JsonObject:
    """Return an entry of a history as a row of a trace; a call is named by its last output field."""
    file, key = draft.file, f"[{number}]"
    draft.guess("a history does not name predictors: calls are named by their last output field")
    messages = entry.get("messages")
    inputs: JsonObject = {}
    if messages is None:
        inputs["prompt"] = entry.get("prompt")
    else:
        for i, message in enumerate(as_objects(messages, file=file, key=f"{key}.messages")):
            content = _content(message.get("content"))
            inputs |= {f"{i}.{name}": value for name, value in _fields(content).items()}
    outputs: JsonObject = {}
    name = ""
    for i, made in enumerate(as_list(entry.get("outputs"), file=file, key=f"{key}.outputs")):
        fields = _fields(_content(made))
        outputs |= {f"{i}.{field}": value for field, value in fields.items()}
        name = name or next((field for field in reversed(fields) if field), "")
    return {
        "predictor": name or "call",
        "inputs": inputs,
        "outputs": outputs,
        "model": entry.get("model"),
        "usage": entry.get("usage"),
    }


def _content(value: object) -> str:
    """Return the text of a message's content or of an output: text, {text: ...}, or a list of such parts."""
    if isinstance(value, list):
        parts = as_list(cast("object", value), file="", key="")
        return "\n".join(text_of(_object(part).get("text")) for part in parts if is_object(part))
    if is_object(value):
        return text_of(_object(value).get("text"))
    return text_of(value)


def _fields(text: str) -> dict[str, str]:
    """Return what a text holds by field; all of it under "" where it has none."""
    before, *rest = _MARKER.split(text)
    if rest:
        found = {"": before} if before.strip() else {}
        found |= {n: v.strip() for n, v in zip(rest[::2], rest[1::2], strict=True) if n != "completed"}
        return found
    data = looks_like_json(text)
    if is_object(data):
        return {name: text_of(value) for name, value in _object(data).items()}
    return {"": text}


def _object(value: object) -> JsonObject:
    """Return what is known to be an object."""
    return as_object(value, file="", key="")


def _add(draft: Draft, row: JsonObject, inputs: JsonObject, answer: JsonObject) -> str:
    predictor = row.get("predictor")
    several = not isinstance(predictor, str)
    parts = as_list(predictor, file=draft.file, key="predictor") if several else [predictor]
    names = [text_of(p) for p in parts]
    prompt, output = _used(row.get("usage"), _PROMPT_KEYS), _used(row.get("usage"), _OUTPUT_KEYS)
    if prompt is None or output is None:
        draft.guess("lengths are counted from the recorded text, 4 characters a token")
    return draft.add_call(
        "/".join(names),
        model=text_of(row.get("model")),
        prompt=_text_tokens(inputs) if prompt is None else Tokens(mean=prompt),
        output=_text_tokens(answer) if output is None else Tokens(mean=output),
        reads_input=False,
    )


def _used(usage: object, keys: Sequence[str]) -> float | None:
    """Return the tokens that a usage states, flat or by language model; None if it does not."""
    if not is_object(usage):
        return None
    counts = _object(usage)
    flat = _stated(counts, keys)
    if flat is not None:
        return flat
    found = [_stated(_object(inner), keys) for inner in counts.values() if is_object(inner)]
    stated = [number for number in found if number is not None]
    return sum(stated) if stated else None


def _stated(counts: JsonObject, keys: Sequence[str]) -> float | None:
    return next((n for key in keys if (n := number_of(counts.get(key))) is not None), None)


def _text_tokens(fields: JsonObject) -> Tokens:
    chars = sum(len(text_of(v)) for v in fields.values())
    return Tokens(mean=max(1.0, chars / GUESSED_CHARS_PER_TOKEN), guessed=True)


def _taken(value: str, output: str) -> bool:
    if not output.strip():
        return False
    return value == output or (len(output) >= _MIN_CONTAINED_CHARS and output in value)


IMPORTER = _Dspy()
