"""The checker's own view of drafts: models as a plan uses them, seconds per token worked out by cases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from planner.ir.agent_graph import AgentGraph, AgentModel, Draft

_MOST = 256


def own_s_per_token(model: AgentModel, draft: Draft, num_tokens: int) -> float:
    """Return seconds per token, from the probabilities of every way in which a check can end."""
    a, k = draft.acceptance, num_tokens
    step_s = model.decode_s_per_token * (1.0 + k * draft.check_growth)
    draft_s = k * draft.decode_s_per_token / draft.layers_at_once
    if draft.mode != "overlapped":
        # j of k are kept and one more is the model's own
        tokens = sum(a**j * (1.0 - a) * (j + 1) for j in range(k)) + a**k * (k + 1)
        return (step_s + draft_s) / tokens
    # share of rounds that begin anew, that check k - 1 and that check k tokens
    fresh, rest, full = 1.0, a, 0.0
    if a < 1.0:
        full = a ** (k - 1) * rest / (1.0 - a**k)
    else:
        fresh, rest, full = 0.0, 0.0, 1.0
    tokens = fresh + rest * _checked(a, k - 1) + full * _checked(a, k)
    return max(step_s, draft_s) * (fresh + rest + full) / tokens


def _checked(a: float, count: int) -> float:
    """Return tokens of a round that checks `count`: those kept, and one of the model's own after a miss."""
    return sum(a**j * (1.0 - a) * (j + 1) for j in range(count)) + a**count * count


def drafted(graph: AgentGraph, details: dict[str, Any]) -> tuple[AgentGraph, list[str]]:
    """Return the graph with its models as the plan drafts for them, and what is wrong with what it says."""
    rows: object = details.get("drafts") or {}
    if not isinstance(rows, dict):
        return graph, ["drafts are no mapping of models"]
    wrong: list[str] = []
    models: list[AgentModel] = []
    known = cast("dict[str, dict[str, Any]]", rows)
    for name in sorted(set(known) - {m.name for m in graph.models}):
        wrong.append(f"a draft for the unknown model {name!r}")
    for model in graph.models:
        row = known.get(model.name)
        if row is None:
            models.append(model)
            continue
        draft = next((d for d in model.drafts if d.name == row.get("draft")), None)
        count = row.get("tokens")
        if draft is None or not isinstance(count, int) or not 1 <= count <= min(draft.max_tokens, _MOST):
            wrong.append(f"{model.name!r} has no draft {row.get('draft')!r} of {count!r} tokens")
            models.append(model)
            continue
        own = own_s_per_token(model, draft, count)
        claimed = row.get("decode_s_per_token")
        if not isinstance(claimed, int | float) or not abs(claimed - own) <= 1e-9 + 1e-6 * own:
            wrong.append(
                f"{model.name!r} takes {own:.6g} s per token with its draft, the plan says {claimed!r}"
            )
        usd = model.usd_per_output_token + draft.usd_per_output_token
        slots = model.slots if draft.slots is None else draft.slots
        models.append(replace(model, decode_s_per_token=own, slots=slots, usd_per_output_token=usd))
    return replace(graph, models=tuple(models)), wrong
