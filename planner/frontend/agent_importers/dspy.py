"""DSPy: a trace of predictors with their inputs and outputs, as JSON.

A saved program (dump_state) has signatures but no edges, so a run on a dummy model is recorded instead:
a list of {predictor, inputs, outputs, model?, usage?}. An edge goes from the predictor whose output value
turns up in a later input.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

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


@dataclass(frozen=True, slots=True)
class _Dspy:
    """Reader of recorded runs."""

    def accepts(self, text: str) -> bool:
        """Whether the text is a trace, or a saved program (to refuse it with a reason)."""
        data = looks_like_json(text)
        if isinstance(data, list):
            return '"predictor"' in text
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
        for i, row in enumerate(as_objects(data, file=file, key="")):
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
        return draft.graph()


def _add(draft: Draft, row: JsonObject, inputs: JsonObject, answer: JsonObject) -> str:
    predictor = row.get("predictor")
    several = not isinstance(predictor, str)
    parts = as_list(predictor, file=draft.file, key="predictor") if several else [predictor]
    names = [text_of(p) for p in parts]
    usage = row.get("usage")
    counts = as_object(usage, file=draft.file, key="usage") if is_object(usage) else {}
    prompt, output = number_of(counts.get("prompt_tokens")), number_of(counts.get("completion_tokens"))
    if prompt is None or output is None:
        draft.guess("lengths are counted from the recorded text, 4 characters a token")
    prompt = _text_tokens(inputs) if prompt is None else prompt
    output = _text_tokens(answer) if output is None else output
    return draft.add_call(
        "/".join(names),
        model=text_of(row.get("model")),
        prompt=Tokens(mean=prompt, guessed=not counts),
        output=Tokens(mean=output, guessed=not counts),
        reads_input=False,
    )


def _text_tokens(fields: JsonObject) -> float:
    return max(1.0, sum(len(text_of(v)) for v in fields.values()) / GUESSED_CHARS_PER_TOKEN)


def _taken(value: str, output: str) -> bool:
    if not output.strip():
        return False
    return value == output or (len(output) >= _MIN_CONTAINED_CHARS and output in value)


IMPORTER = _Dspy()
