"""Archon: layered configurations of generators, fusers, critics, rankers, verifiers and unit tests.

Every component of a layer sees all candidates of the layers before. Generators and fusers run
`samples` times, a verifier and a test evaluator once per candidate, critics, rankers and test
generators once. A list of candidates is cut by `top_k` of a ranker.
Source of the format: ScalingIntelligence/Archon, its configs folder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import PurePath

from planner.errors import InputError, UnknownNameError
from planner.frontend.agent_draft import GUESSED_OUTPUT, Draft
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

_PER_CANDIDATE = frozenset({"verifier", "unit_test_evaluator"})
_MAKES_CANDIDATES = frozenset({"generator", "fuser", "model"})
_ALONE = frozenset({"critic", "ranker", "unit_test_generator"})
_MAX_SAMPLES = 10_000


@dataclass(slots=True, kw_only=True)
class _Flow:
    """What has run so far: candidates, and the last layer's nodes."""

    num_candidates: int = 1
    before: list[str] | None = None


@dataclass(frozen=True, slots=True)
class _Archon:
    """Reader of Archon configurations."""

    def accepts(self, text: str) -> bool:
        """Whether the text is an object with a list of layers of typed components."""
        data = looks_like_json(text)
        return isinstance(data, dict) and '"layers"' in text and '"type"' in text and "layers" in data

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return one node per component, layers fully connected."""
        del companion
        data = as_object(parse_json(text, file=file), file=file, key="")
        draft = Draft(name=text_of(data.get("name")) or PurePath(file).stem, file=file)
        flow = _Flow()
        for i, layer in enumerate(as_list(data.get("layers"), file=file, key="layers")):
            key = f"layers[{i}]"
            rows = as_object(layer, file=file, key=key).get("models") if is_object(layer) else layer
            branches = _branches(draft, layer, key) if is_object(layer) else 1
            _layer(draft, flow, as_objects(rows, file=file, key=key), (key, branches))
        if not draft.nodes:
            raise InputError("no layer has a component", file=file, key="layers")
        draft.feed_prompts()
        return draft.graph()


def _branches(draft: Draft, layer: object, key: str) -> int:
    """Return how often a layer of the older form runs side by side."""
    given = as_object(layer, file=draft.file, key=key).get("branches")
    branches = 1 if given is None else number_of(given)
    if branches is None or not 1 <= branches <= _MAX_SAMPLES or branches != int(branches):
        raise InputError(
            "not a number of branches",
            file=draft.file,
            key=f"{key}.branches",
            value=given,
            allowed=f"1 to {_MAX_SAMPLES}",
        )
    if branches > 1:
        draft.guess("a layer with branches makes as many candidates from each of its models")
    return int(branches)


def _layer(draft: Draft, flow: _Flow, rows: list[JsonObject], place: tuple[str, int]) -> None:
    key, branches = place
    added: list[str] = []
    made = 0
    for j, row in enumerate(rows):
        kind = text_of(row.get("type"))
        allowed = sorted(_PER_CANDIDATE | _MAKES_CANDIDATES | _ALONE)
        if kind not in allowed:
            raise UnknownNameError("component type", kind, allowed).located(
                file=draft.file, key=f"{key}[{j}].type"
            )
        copies = _copies(draft, flow, kind, row, f"{key}[{j}]")
        copies *= branches if kind in _MAKES_CANDIDATES else 1
        name = draft.add_call(
            f"{kind}-{len(draft.nodes) + 1}",
            model=text_of(row.get("model")),
            output=_output(draft, row),
            prompt=Tokens(mean=200.0, guessed=True),
        )
        draft.nodes[name] = replace(draft.nodes[name], copies=copies)
        for source in flow.before or []:
            draft.connect(source, name)
        added.append(name)
        made += copies if kind in _MAKES_CANDIDATES else 0
        top_k = number_of(row.get("top_k"))
        if kind in _ALONE | _PER_CANDIDATE and top_k and kind == "ranker":
            flow.num_candidates = max(1, min(flow.num_candidates, int(top_k)))
    if made:
        flow.num_candidates = made
    flow.before = added or flow.before


def _copies(draft: Draft, flow: _Flow, kind: str, row: JsonObject, key: str) -> int:
    given = number_of(row.get("samples"))
    samples = 1 if given is None else int(given)
    if not 1 <= samples <= _MAX_SAMPLES:
        raise InputError(
            "not a number of samples",
            file=draft.file,
            key=f"{key}.samples",
            value=row.get("samples"),
            allowed=f"1 to {_MAX_SAMPLES}",
        )
    if kind in _MAKES_CANDIDATES:
        return samples
    return flow.num_candidates if kind in _PER_CANDIDATE else 1


def _output(draft: Draft, row: JsonObject) -> Tokens:
    """Return the guessed length, cut by the configured limit."""
    limit = number_of(row.get("max_tokens")) or number_of(row.get("max_context_length"))
    draft.guess("lengths are not in the source: 512 tokens per answer, or the limit if that is lower")
    if limit is None or limit < 1:
        return GUESSED_OUTPUT
    return Tokens(mean=min(GUESSED_OUTPUT.mean, limit), limit=int(limit), guessed=True)


IMPORTER = _Archon()
