"""A static batch: all prompts are prefilled, then all sequences decode to the end; nobody joins or leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.serving.iteration import step_time
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTimes:
    """Times of one static batch, seconds; `e2e_s` is that of the whole batch."""

    ttft_s: float
    tpot_s: float
    e2e_s: float


def static_batch(tables: TimeTables, requests: Requests, batch: float, token_budget: float) -> BatchTimes:
    """Return the times of `batch` mean requests per attention rank.

    Prompts run in chunks of at most the budget, one after another through the pipeline; decode steps
    carry the whole batch, cut into as many micro-batches as there are stages.
    """
    tokens = batch * requests.mean_new_tokens
    num_chunks = max(1.0, np.ceil(tokens / token_budget))
    attention = (tables.prompt_attention_s @ requests.weights) * batch / num_chunks
    chunk = step_time(tables, np.zeros(1), np.full(1, tokens / num_chunks), attention[:, None])
    ttft = float(num_chunks * chunk.slot_s[0] + chunk.fill_s[0]) + tables.per_request_s
    per_slot = np.array([max(1.0, batch / tables.num_stages)])
    tpot = float(step_time(tables, per_slot, np.zeros(1)).slot_s[0]) * tables.num_stages
    return BatchTimes(ttft_s=ttft, tpot_s=tpot, e2e_s=ttft + tpot * requests.mean_steps)
