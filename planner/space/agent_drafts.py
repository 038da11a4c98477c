"""Speculative decoding of an agent graph's models: drafts that are worth a try, and graphs that use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, cast

from cost_models.agents.speculation import kept_tokens, overlapped_s_per_token, serial_s_per_token
from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, AgentModel, Draft

_MAX_COMBINATIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A model with a draft of so many tokens; without a draft it writes token by token."""

    model: AgentModel
    draft: Draft | None = None
    num_tokens: int = 0

    @property
    def decode_s_per_token(self) -> float:
        """Seconds per token."""
        if self.draft is None:
            return self.model.decode_s_per_token
        return draft_s_per_token(self.model, self.draft, self.num_tokens)

    @property
    def slots(self) -> int:
        """Calls at once on a replica, with the draft in its memory."""
        own = self.draft.slots if self.draft is not None else None
        return self.model.slots if own is None else own

    def resolved(self) -> AgentModel:
        """Return the model as calls see it."""
        if self.draft is None:
            return replace(self.model, drafts=())
        usd = self.model.usd_per_output_token + self.draft.usd_per_output_token
        return replace(
            self.model,
            decode_s_per_token=self.decode_s_per_token,
            slots=self.slots,
            usd_per_output_token=usd,
            drafts=(),
        )

    def as_dict(self) -> dict[str, object]:
        """Return the choice as plain values."""
        assert self.draft is not None
        return {
            "draft": self.draft.name,
            "tokens": self.num_tokens,
            "decode_s_per_token": self.decode_s_per_token,
            "tokens_per_check": kept_tokens(self.draft.acceptance, self.num_tokens),
        }


def draft_s_per_token(model: AgentModel, draft: Draft, num_tokens: int) -> float:
    """Return seconds per token of a model with a draft of so many tokens.

    A check of k tokens takes 1 + k `check_growth` steps; with layers in parallel a drafted token takes its
    time divided by how many layers run at once.
    """
    step_s = model.decode_s_per_token * (1.0 + num_tokens * draft.check_growth)
    draft_s = draft.decode_s_per_token / draft.layers_at_once
    form = overlapped_s_per_token if draft.mode == "overlapped" else serial_s_per_token
    return form(draft.acceptance, num_tokens, step_s, draft_s)


def best_length(model: AgentModel, draft: Draft) -> int:
    """Return how many tokens to draft: the fewest seconds per token, of equal ones the shortest."""
    counts = range(1, draft.max_tokens + 1)
    return min(counts, key=lambda k: (draft_s_per_token(model, draft, k), k))


def choices_of(model: AgentModel) -> list[Drafted]:
    """Return the drafts of a model that no other one beats in speed, slots and price at once; none too."""
    found = [Drafted(model=model)]
    found += [Drafted(model=model, draft=d, num_tokens=best_length(model, d)) for d in model.drafts]

    def key(choice: Drafted) -> tuple[float, int, float]:
        resolved = choice.resolved()
        return resolved.decode_s_per_token, -resolved.slots, resolved.usd_per_output_token

    kept: list[Drafted] = []
    for i, choice in enumerate(found):
        beaten = any(
            all(a <= b for a, b in zip(key(other), key(choice), strict=True))
            and (key(other) != key(choice) or j < i)
            for j, other in enumerate(found)
            if j != i
        )
        if not beaten:
            kept.append(choice)
    return kept


def drafted_graphs(graph: AgentGraph) -> Iterator[tuple[AgentGraph, dict[str, object]]]:
    """Yield every graph with its models' drafts chosen, and the choice as plain values.

    Raises
    ------
    InputError
        If there are too many combinations to plan each.
    """
    options = [choices_of(model) for model in graph.models]
    count = 1
    for own in options:
        count *= len(own)
    if count > _MAX_COMBINATIONS:
        raise InputError(
            "too many combinations of drafts to plan each",
            key="models",
            value=count,
            allowed=f"up to {_MAX_COMBINATIONS}",
            hint="Leave out drafts, or let them keep the slots of their model.",
        )
    for picks in product(*options):
        chosen: dict[str, object] = {p.model.name: p.as_dict() for p in picks if p.draft is not None}
        yield replace(graph, models=tuple(p.resolved() for p in picks)), chosen


def with_drafts(graph: AgentGraph, details: Mapping[str, object]) -> AgentGraph:
    """Return the graph as a plan's details decided on drafts.

    Raises
    ------
    InputError
        If the plan names a draft that the model does not have.
    """
    rows = cast("Mapping[str, Mapping[str, Any]]", details.get("drafts") or {})
    models: list[AgentModel] = []
    for model in graph.models:
        row = rows.get(model.name)
        if row is None:
            models.append(Drafted(model=model).resolved())
            continue
        draft = next((d for d in model.drafts if d.name == row.get("draft")), None)
        if draft is None:
            raise InputError(
                "the model has no such draft", key=f"details.drafts.{model.name}", value=row.get("draft")
            )
        models.append(Drafted(model=model, draft=draft, num_tokens=int(row["tokens"])).resolved())
    return replace(graph, models=tuple(models))
