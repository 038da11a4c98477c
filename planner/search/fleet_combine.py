"""One option per model within what all of them share: a dynamic program over the models.

Each option costs at least the model's cheapest at given prices on what is shared; by how much it costs
more is its excess. An answer whose excesses add up to more than a window is worse than the window allows,
so few partial answers are kept, and of those that use the same only the cheapest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray

IntArray = NDArray[np.int64]
MOST_PARTIAL = 3_000_000
"""Partial answers looked at together; beyond, the caller has to solve in another way."""
_MANY = 3_000
_SLACK = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The ways to serve one model: what each uses of every row, its cost, and its excess."""

    uses: FloatArray
    cost: FloatArray
    excess: FloatArray


class TooManyError(Exception):
    """There are more partial answers than are worth looking at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """The partial answers after a model: what they use, cost and exceed, and where they come from."""

    uses: FloatArray
    cost: FloatArray
    excess: FloatArray
    before: IntArray
    option: IntArray


def combine(models: Sequence[Options], limits: FloatArray, window: float) -> tuple[int, ...] | None:
    """Return the cheapest option of every model within the limits and the window, None if there is none.

    Raises
    ------
    TooManyError
        If too many partial answers would have to be kept.
    """
    if not models:
        return ()
    limits = limits + _SLACK * np.maximum(1.0, np.abs(limits))
    tight = sum(one.uses.max(axis=0) for one in models) > limits
    order = sorted(range(len(models)), key=lambda at: (models[at].cost.size, at))
    kept = [_undominated(models[at], tight) for at in order]
    stages: list[_Stage] = []
    for at, rows in enumerate(kept):
        rest = np.sum([models[order[k]].uses[kept[k]].min(axis=0) for k in range(at + 1, len(kept))], axis=0)
        stage = _next(stages[-1] if stages else None, models[order[at]], rows, window)
        fits = (stage.uses[:, tight] + np.broadcast_to(rest, tight.shape)[tight] <= limits[tight]).all(axis=1)
        stages.append(_cheapest(stage, np.flatnonzero(fits), tight))
        if not stages[-1].cost.size:
            return None
    return _traced(stages, order)


def _next(stage: _Stage | None, options: Options, rows: IntArray, window: float) -> _Stage:
    """Return every partial answer with every option of the next model that stays inside the window."""
    if stage is None:
        inside = rows[options.excess[rows] <= window + _SLACK]
        return _Stage(
            uses=options.uses[inside],
            cost=options.cost[inside],
            excess=options.excess[inside],
            before=np.full(inside.size, -1),
            option=inside,
        )
    rows = rows[np.argsort(options.excess[rows], kind="stable")]
    excess = options.excess[rows]
    # Of each partial answer the options up to what the window leaves: a run of the sorted ones.
    counts = np.searchsorted(excess, window + _SLACK - stage.excess, side="right")
    if int(counts.sum()) > MOST_PARTIAL:
        raise TooManyError
    before = np.repeat(np.arange(counts.size), counts)
    own = np.arange(before.size) - np.repeat(np.cumsum(counts) - counts, counts)
    option = rows[own]
    return _Stage(
        uses=stage.uses[before] + options.uses[option],
        cost=stage.cost[before] + options.cost[option],
        excess=stage.excess[before] + options.excess[option],
        before=before,
        option=option,
    )


def _cheapest(stage: _Stage, rows: IntArray, tight: NDArray[np.bool_]) -> _Stage:
    """Return those of some partial answers that no cheaper one uses as much as, of the rows that can bind."""
    uses, cost = np.round(stage.uses[rows][:, tight], 6), stage.cost[rows]
    order = np.lexsort((cost, *uses.T))
    sorted_uses = uses[order]
    first = np.ones(order.size, dtype=np.bool_)
    first[1:] = (sorted_uses[1:] != sorted_uses[:-1]).any(axis=1)
    kept = rows[order[first]]
    return _Stage(
        uses=stage.uses[kept],
        cost=stage.cost[kept],
        excess=stage.excess[kept],
        before=stage.before[kept],
        option=stage.option[kept],
    )


def _undominated(options: Options, tight: NDArray[np.bool_]) -> IntArray:
    """Return the options that no other is as cheap as with no more of any row that can bind.

    Of very many, all: comparing each with each would take longer than it saves.
    """
    uses = options.uses[:, tight]
    if options.cost.size > _MANY:
        return np.arange(options.cost.size)
    order = np.lexsort((options.excess, *uses.T, options.cost))
    kept_uses = np.empty_like(uses)
    kept: list[int] = []
    for at in order.tolist():
        if not (kept_uses[: len(kept)] <= uses[at]).all(axis=1).any():
            kept_uses[len(kept)] = uses[at]
            kept.append(at)
    return np.array(kept, dtype=np.int64)


def _traced(stages: Sequence[_Stage], order: Sequence[int]) -> tuple[int, ...]:
    """Return the options behind the cheapest answer, in the order of the models."""
    found = [0] * len(order)
    at = int(np.argmin(stages[-1].cost))
    for number in range(len(stages) - 1, -1, -1):
        found[order[number]] = int(stages[number].option[at])
        at = int(stages[number].before[at])
    return tuple(found)
