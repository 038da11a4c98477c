"""Priced time tables of one replica: all that the serving model knows about a model and its strategy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cost_models.cost import FloatArray
from hardware_profiles.provenance import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeTables:
    """Time per micro-batch step on each kind of pipeline stage, by what is in the step.

    Equal stages are one row; `stage_counts` says how often a row occurs, so a replica without
    pipeline has one row of count 1. A step of m tokens, d of which are decode tokens, takes on row s
    token_time_s[s](m) + sequence_time_s[s](d) + the attention of the prompt tokens in it, which meets
    prompt_step_s[s] if there are any (`with_launches`). Between grid
    points times are linear; grids start at 0 with the cost of a step with nothing in it.

    Parameters
    ----------
    token_grid, token_time_s
        Tokens per step (of one attention rank), and seconds, [rows, grid].
    sequence_grid, sequence_time_s
        Decode sequences per step, and seconds of decode attention, states, logits and sampling.
    prompt_attention_s
        Attention of a whole prompt, summed over its chunks, seconds, [rows, samples].
    num_attention_ranks
        Attention data-parallel ranks; grids count what one rank does.
    sigma
        Standard deviation of the relative error of a step.
    first_token_sigma
        The same of a time to first token.
    shared_time_s
        The part of `token_time_s` that follows the tokens of all ranks together, [rows, grid]: experts and
        the exchange around them, at as many tokens per rank.
    prompt_step_s
        What the host takes to launch the kernels of a step that holds prompt tokens one by one, [rows].
    launch_sharpness
        How that meets the device's time, see `with_launches`.
    admission_s
        What a front end needs per request, one after another, beside the steps; of closed loops alone.
    """

    token_grid: FloatArray
    token_time_s: FloatArray
    sequence_grid: FloatArray
    sequence_time_s: FloatArray
    prompt_attention_s: FloatArray
    stage_counts: FloatArray
    num_attention_ranks: int
    per_request_s: float
    sigma: float
    provenance: Provenance
    first_token_sigma: float = 0.0
    prompt_step_s: FloatArray = field(default_factory=lambda: np.zeros(1))
    shared_time_s: FloatArray | None = None
    launch_sharpness: float = 1.0
    admission_s: float = 0.0

    @property
    def num_stages(self) -> int:
        """Pipeline stages, which is also the number of micro-batches in flight."""
        return int(self.stage_counts.sum())

    def scaled(self, factor: float) -> TimeTables:
        """Return the tables with every time multiplied by `factor` (planning against a quantile)."""
        return TimeTables(
            token_grid=self.token_grid,
            token_time_s=self.token_time_s * factor,
            sequence_grid=self.sequence_grid,
            sequence_time_s=self.sequence_time_s * factor,
            prompt_attention_s=self.prompt_attention_s * factor,
            stage_counts=self.stage_counts,
            num_attention_ranks=self.num_attention_ranks,
            per_request_s=self.per_request_s * factor,
            sigma=self.sigma,
            provenance=self.provenance,
            first_token_sigma=self.first_token_sigma,
            prompt_step_s=self.prompt_step_s * factor,
            shared_time_s=None if self.shared_time_s is None else self.shared_time_s * factor,
            launch_sharpness=self.launch_sharpness,
            admission_s=self.admission_s * factor,
        )


def stacked(tables: Sequence[TimeTables]) -> TimeTables:
    """Return tables side by side: every array of rows has the replicas as second axis.

    All have the same grids and engine. Replicas with fewer rows repeat one with a count of zero, which
    changes neither the slowest row nor the sum. What is one number per replica is not kept.
    """
    rows = max(one.stage_counts.size for one in tables)

    def side(name: str) -> FloatArray:
        values: list[FloatArray] = [getattr(one, name) for one in tables]
        found = np.empty((rows, len(tables), *values[0].shape[1:]))
        for at, value in enumerate(values):
            found[: len(value), at] = value
            found[len(value) :, at] = value[0]
        return found

    counts = np.zeros((rows, len(tables)))
    for at, one in enumerate(tables):
        counts[: one.stage_counts.size, at] = one.stage_counts
    return replace(
        tables[0],
        token_time_s=side("token_time_s"),
        sequence_time_s=side("sequence_time_s"),
        prompt_attention_s=side("prompt_attention_s"),
        prompt_step_s=side("prompt_step_s"),
        stage_counts=counts,
    )


def interpolate(grid: FloatArray, rows: FloatArray, at: FloatArray) -> FloatArray:
    """Return rows[s](at) for every row s: shape [rows, *at.shape], linear between grid points.

    Rows of stacked tables, [rows, replicas, grid], take each replica at its own `at`, [replicas, ...].

    Raises
    ------
    ValueError
        If `at` leaves the grid: tables are never extrapolated.
    """
    if at.size and (float(at.max()) > grid[-1] * (1.0 + 1e-9) or float(at.min()) < grid[0]):
        raise ValueError(f"{float(at.max()):g} lies outside the priced range {grid[0]:g} to {grid[-1]:g}")
    if rows.ndim == 3:
        left = np.minimum(np.searchsorted(grid, at, side="right") - 1, grid.size - 2)
        share = np.minimum((at - grid[left]) / (grid[left + 1] - grid[left]), 1.0)
        own = np.expand_dims(np.arange(at.shape[0], dtype=np.intp), tuple(range(1, at.ndim)))
        low = rows[:, own, left]
        return low + share * (rows[:, own, left + 1] - low)
    flat = at.ravel()
    return np.array([np.interp(flat, grid, row) for row in rows], dtype=np.float64).reshape(
        rows.shape[:1] + at.shape
    )
