"""What one engine iteration costs: the only place that turns the contents of a step into time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.tables import TimeTables, interpolate


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Time of a step: on the slowest stage (what a pipeline repeats) and through all stages (its latency)."""

    slot_s: FloatArray
    through_s: FloatArray

    @property
    def fill_s(self) -> FloatArray:
        """Extra latency of passing the other stages, seconds."""
        return self.through_s - self.slot_s


def with_launches(
    device_s: FloatArray | float, launches_s: FloatArray | float, sharpness: float
) -> FloatArray:
    """Return how long a step takes whose kernels the host launches one by one.

    The host runs ahead of the device, so the step takes the longer of the two; where they are alike each
    waits for the other at times. (device^p + launches^p)^(1/p) passes between the sum (p = 1: one after the
    other) and the maximum.

    Source: own form.
    """
    device, launches = np.asarray(device_s, dtype=np.float64), np.asarray(launches_s, dtype=np.float64)
    if sharpness == 1.0:
        return device + launches
    longest = np.maximum(np.maximum(device, launches), 1e-300)
    ratio = np.minimum(device, launches) / longest
    return longest * (1.0 + ratio**sharpness) ** (1.0 / sharpness)


def step_time(
    tables: TimeTables,
    num_decode: FloatArray,
    num_prompt_tokens: FloatArray,
    prompt_attention_s: FloatArray | float = 0.0,
    *,
    mean_tokens: FloatArray | None = None,
) -> StepTime:
    """Return the time of a step with `num_decode` decode sequences and `num_prompt_tokens` prompt tokens.

    Prefill, decode, chunked prefill and mixed batches all go through here. `prompt_attention_s` has
    the leading axis of the tables' rows: the attention of just these prompt tokens. With several
    stages a step occupies each stage in turn and the next micro-batch follows one `slot_s` later.
    Counts are those of the fullest attention rank, for which the others wait; `mean_tokens` per rank, where
    given, are what the experts get, which compute the tokens of all ranks together.

    Source: iteration-level scheduling of Orca (OSDI 2022) and chunked prefill of Sarathi-Serve (OSDI 2024).
    """
    decode, prompt = np.broadcast_arrays(
        np.asarray(num_decode, dtype=np.float64), np.asarray(num_prompt_tokens, dtype=np.float64)
    )
    per_stage = (
        interpolate(tables.token_grid, tables.token_time_s, decode + prompt)
        + interpolate(tables.sequence_grid, tables.sequence_time_s, decode)
        + prompt_attention_s
    )
    if mean_tokens is not None and tables.shared_time_s is not None:
        full = interpolate(tables.token_grid, tables.shared_time_s, decode + prompt)
        per_stage = per_stage + interpolate(tables.token_grid, tables.shared_time_s, mean_tokens) - full
    by_row = (1,) * (per_stage.ndim - tables.stage_counts.ndim)
    launches = tables.prompt_step_s.reshape(*tables.prompt_step_s.shape, *by_row) * (prompt > 0.0)
    per_stage = with_launches(per_stage, launches, tables.launch_sharpness)
    counts = tables.stage_counts.reshape(*tables.stage_counts.shape, *by_row)
    return StepTime(slot_s=per_stage.max(axis=0), through_s=(per_stage * counts).sum(axis=0))
