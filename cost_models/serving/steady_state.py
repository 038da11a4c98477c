"""Steady state of one replica over its load: continuous batching with chunked prefill, and its two halves.

Load is swept by the decode sequences in flight, because then every step's contents are known in
closed form: with d decode sequences per micro-batch step and s decode steps per request, r = d / s
requests finish, and hence start, per step, and bring r times the mean prompt with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.iteration import step_time
from cost_models.serving.queueing import normal_quantile
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables, stacked

IntArray = NDArray[np.intp]
OVERFLOW_PERCENTILE = 99.0
"""Running sequences may exceed the batch or cache limit at most this rarely (percent of the time)."""
_POINTS_PER_OCTAVE = 5
_OCTAVES_BELOW = 9
_NUM_BELOW = _OCTAVES_BELOW * _POINTS_PER_OCTAVE + 2
"""Loads below the highest: these octaves and one load close to none."""
_SATURATION = 0.999
_MOST_SLOTS_IN_USE = 0.9
"""Share of its slots that a replica with requests waiting for them may use in the mean."""
_MOST_CELLS = 200_000
"""Loads times samples that are worked out at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one attention rank may hold.

    Parameters
    ----------
    token_budget
        Tokens per step, decode tokens included.
    max_sequences
        Running sequences the engine admits.
    cache_sequences
        Sequences of mean residency whose cache fits (may be fractional).
    cache_scv
        Squared coefficient of variation of a running sequence's cache.
    closed_loop
        The number in flight is fixed, so only lengths vary.
    """

    token_budget: float
    max_sequences: float
    cache_sequences: float
    cache_scv: float
    closed_loop: bool = False

    @property
    def slots(self) -> float:
        """Sequences that run at once where others wait, in the mean.

        The first in line waits although some cache is free: half of what it needs, in the mean. Longer
        ones wait more often, so it needs 1 + scv of the mean. One sequence always runs.
        """
        by_cache = max(1.0, self.cache_sequences - 0.5 * (1.0 + self.cache_scv))
        return min(by_cache, self.max_sequences)

    @property
    def mean_sequences(self) -> float:
        """Highest mean number in flight that keeps overflow as rare as stated.

        The number in flight of an open loop is Poisson (M/G/infinity), so the cache in use is compound
        Poisson with variance d (1 + scv) and mean d, in sequences; solve d + z sqrt(d (1 + scv)) = limit.
        """
        z = normal_quantile(OVERFLOW_PERCENTILE)
        number = 0.0 if self.closed_loop else 1.0
        by_cache = _mean_below(self.cache_sequences, z * np.sqrt(number + self.cache_scv))
        by_batch = _mean_below(self.max_sequences, z * np.sqrt(number))
        return min(by_cache, by_batch)


Case = tuple[TimeTables, BatchLimits]


def _mean_below(limit: float, spread: float) -> float:
    root = (-spread + np.sqrt(spread**2 + 4.0 * max(limit, 0.0))) / 2.0
    return float(root**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurve:
    """A replica over its load, per attention rank; every array has one entry per load point, rising.

    Parameters
    ----------
    rate_rps
        Requests per second of one rank.
    per_slot
        Requests per micro-batch step, the abscissa between whose points all is linear.
    step_s, tpot_s, tpot_high_s
        Mean step time; time per output token in the mean and at the percentile.
    service_s, service_scv
        Time a prompt holds the prefill of a rank when there is a backlog, and its variation.
    own_ttft_s
        Time to first token without waiting for other prompts, [points, samples].
    sequences
        Mean sequences in decode per rank.
    mixed_share
        Share of steps that carry prompt tokens.
    slots
        Sequences per rank that run at once; requests wait for one (infinite: they never do).
    """

    per_slot: FloatArray
    rate_rps: FloatArray
    step_s: FloatArray
    tpot_s: FloatArray
    tpot_high_s: FloatArray
    service_s: FloatArray
    service_scv: FloatArray
    own_ttft_s: FloatArray
    sequences: FloatArray
    mixed_share: FloatArray
    num_ranks: int
    num_stages: int
    slots: float = np.inf


def aggregated_curve(
    tables: TimeTables, requests: Requests, limits: BatchLimits, percentile: float = 0.0
) -> LoadCurve | None:
    """Return the load curve of a replica that prefills and decodes; None if not even one request fits."""
    return aggregated_curves([(tables, limits)], requests, percentile)[0]


def aggregated_curves(
    cases: Sequence[Case], requests: Requests, percentile: float = 0.0
) -> list[LoadCurve | None]:
    """Return the load curves of replicas that prefill and decode, all at once; None where nothing fits.

    A step carries d decode tokens and, in a share f of the steps, one chunk of prompt tokens; a prompt of
    p tokens needs p / c chunks of c = min(budget - d, max(p, prompt tokens arriving per step)). Mean step
    T = T(d, 0) + f_any (E[T(d, c)] - T(d, 0)), where f_any = 1 - (1 - f)^ranks: ranks run in lockstep.

    Source: own closed form, a mean-value model of chunked prefill (Sarathi-Serve, OSDI 2024).
    """
    return _swept(cases, requests, percentile, prefills=True)


def decode_curve(
    tables: TimeTables, requests: Requests, limits: BatchLimits, percentile: float = 0.0
) -> LoadCurve | None:
    """Return the load curve of a replica that only decodes; None if not even one request fits."""
    return decode_curves([(tables, limits)], requests, percentile)[0]


def decode_curves(
    cases: Sequence[Case], requests: Requests, percentile: float = 0.0
) -> list[LoadCurve | None]:
    """Return the load curves of replicas that only decode, all at once; None where nothing fits."""
    return _swept(cases, requests, percentile, prefills=False)


def _swept(
    cases: Sequence[Case], requests: Requests, percentile: float, *, prefills: bool
) -> list[LoadCurve | None]:
    """Return the curves of cases, as many at once as fit a reasonable array."""
    sweep = _aggregated if prefills else _decoding
    found: list[LoadCurve | None] = [None] * len(cases)
    points = _load_points(cases, requests, percentile, prefills=prefills)
    width = points.per_slot.shape[1] if points.rows.size else 1
    each = max(1, _MOST_CELLS // (width * requests.weights.size))
    for start in range(0, points.rows.size, each):
        part = points.only(slice(start, start + each))
        rows = [int(row) for row in part.rows]
        batch = _Batch.of([cases[row] for row in rows], part, prefills=prefills)
        curves = _curves(batch, requests, percentile, sweep(batch, requests))
        for index, curve in zip(rows, curves, strict=True):
            found[index] = curve
    return found


def _aggregated(batch: _Batch, requests: Requests) -> _Sweep:
    tables, per_slot = batch.tables, batch.per_slot
    decode = batch.decode_seen(requests)
    budget = batch.token_budget - per_slot * requests.mean_steps
    empty = step_time(tables, decode, np.zeros_like(decode))
    arriving = (per_slot * requests.mean_new_tokens)[..., None]
    new = requests.new_tokens
    chunk = np.minimum(budget[..., None], np.maximum(new, arriving))
    num_chunks = new / chunk
    attention = tables.prompt_attention_s[..., None, :] * (chunk / new)
    mixed = step_time(tables, np.broadcast_to(decode[..., None], chunk.shape), chunk, attention)
    busy = per_slot * (num_chunks @ requests.weights)
    any_busy = 1.0 - (1.0 - np.minimum(busy, 1.0)) ** (batch.num_ranks * batch.num_stages)
    extra = (num_chunks * (mixed.slot_s - empty.slot_s[..., None])) @ requests.weights
    step = empty.slot_s + per_slot * extra * any_busy / np.maximum(busy, 1e-300)
    whole = np.maximum(np.ceil(num_chunks - 1e-9), 1.0)
    own = (
        np.maximum(num_chunks, 1.0) * mixed.slot_s
        + (whole - np.maximum(num_chunks, 1.0)) * empty.slot_s[..., None]
        + mixed.fill_s
    )
    waiting_for_step = 0.5 * empty.slot_s if requests.mean_steps > 0.0 else np.zeros_like(step)
    return _Sweep(
        step_s=step,
        service_s=_backlog_service_s(tables, requests, decode, budget),
        own_ttft_s=own + waiting_for_step[..., None] + batch.per_request_s[..., None],
        mixed_share=any_busy,
    )


def _decoding(batch: _Batch, requests: Requests) -> _Sweep:
    decode = batch.decode_seen(requests)
    step = step_time(batch.tables, decode, np.zeros_like(decode)).slot_s
    none = np.zeros((*decode.shape, requests.weights.size))
    return _Sweep(step_s=step, service_s=none, own_ttft_s=none, mixed_share=np.zeros_like(step))


def prefill_curve(tables: TimeTables, requests: Requests, token_budget: float) -> LoadCurve:
    """Return the load curve of a replica that only prefills."""
    return prefill_curves([(tables, token_budget)], requests)[0]


def prefill_curves(cases: Sequence[tuple[TimeTables, float]], requests: Requests) -> list[LoadCurve]:
    """Return the load curves of replicas that only prefill: prompts in order, in chunks of the budget.

    Chunks of one prompt follow each other through the pipeline, so a prompt holds the slowest stage for
    the sum of its chunks and needs the other stages' time once more.
    """
    if not cases:
        return []
    tables = stacked([one for one, _ in cases])
    budgets = np.array([budget for _, budget in cases])[:, None]
    new = requests.new_tokens
    num_chunks = np.maximum(np.ceil(new / budgets - 1e-9), 1.0)
    attention = tables.prompt_attention_s / num_chunks
    chunk = step_time(tables, np.zeros_like(num_chunks), new / num_chunks, attention)
    per_request = np.array([one.per_request_s for one, _ in cases])[:, None]
    own = num_chunks * chunk.slot_s + chunk.fill_s + per_request
    none = np.zeros_like(budgets)
    backlog = _backlog_service_s(tables, requests, none, budgets)[:, 0]
    service = np.minimum(num_chunks * chunk.slot_s, backlog)
    mean, second = service @ requests.weights, service**2 @ requests.weights
    points = np.array([1e-9, _SATURATION])
    two = np.ones(2)
    return [
        LoadCurve(
            per_slot=points,
            rate_rps=points / mean[at],
            step_s=two * mean[at],
            tpot_s=two * 0.0,
            tpot_high_s=two * 0.0,
            service_s=two * mean[at],
            service_scv=two * (second[at] / mean[at] ** 2 - 1.0),
            own_ttft_s=np.broadcast_to(own[at], (2, new.size)),
            sequences=two * 0.0,
            mixed_share=points,
            num_ranks=one.num_attention_ranks,
            num_stages=one.num_stages,
        )
        for at, (one, _) in enumerate(cases)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """Loads to price, of those cases (`rows`) that have any; beyond `top` they only show a busier moment.

    `per_slot` has one row per case; shorter lists of loads (`sizes`) repeat their last one.
    """

    rows: IntArray
    per_slot: FloatArray
    sizes: IntArray
    top: FloatArray

    def only(self, part: slice) -> _Points:
        """Return some of the cases."""
        return _Points(
            rows=self.rows[part], per_slot=self.per_slot[part], sizes=self.sizes[part], top=self.top[part]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Replicas side by side: tables with a second axis of them, loads [replicas, points], else [.., 1]."""

    tables: TimeTables
    per_slot: FloatArray
    sizes: IntArray
    top: FloatArray
    token_budget: FloatArray
    max_sequences: FloatArray
    slots: FloatArray
    itself: FloatArray
    num_ranks: FloatArray
    num_stages: FloatArray
    per_request_s: FloatArray

    @staticmethod
    def of(cases: Sequence[Case], points: _Points, *, prefills: bool) -> _Batch:
        """Stack cases and their loads; who prefills takes a request only when a slot is free."""
        stages = [tables.num_stages for tables, _ in cases]
        return _Batch(
            tables=stacked([tables for tables, _ in cases]),
            per_slot=points.per_slot,
            sizes=points.sizes,
            top=points.top[:, None],
            token_budget=_column([limits.token_budget for _, limits in cases]),
            max_sequences=_column([limits.max_sequences for _, limits in cases]),
            slots=np.array([_waited_for(limits, prefills=prefills) for _, limits in cases]),
            itself=_column(
                [
                    0.0 if limits.closed_loop else 1.0 / num
                    for (_, limits), num in zip(cases, stages, strict=True)
                ]
            ),
            num_ranks=_column([tables.num_attention_ranks for tables, _ in cases]),
            num_stages=_column(stages),
            per_request_s=_column([tables.per_request_s for tables, _ in cases]),
        )

    def decode_seen(self, requests: Requests) -> FloatArray:
        """Return the decode batch that a running request meets: the mean and, in an open loop, itself."""
        if requests.mean_steps <= 0.0:
            return np.zeros_like(self.per_slot)
        seen = np.maximum(self.per_slot * requests.mean_steps + self.itself, 1.0)
        return np.minimum(seen, np.maximum(1.0, self.max_sequences))

    def cut(self, values: FloatArray) -> FloatArray:
        """Return values [replicas, points, ...] up to the top, the last between the loads around it.

        All lists of loads have as many below their top, so that what is left is equally long.
        """
        low, high = self.per_slot[:, _NUM_BELOW - 1], self.per_slot[:, _NUM_BELOW]
        share = (self.top[:, 0] - low) / (high - low)
        before, after = values[:, _NUM_BELOW - 1], values[:, _NUM_BELOW]
        end = before + np.expand_dims(share, tuple(range(1, before.ndim))) * (after - before)
        return np.concatenate((values[:, :_NUM_BELOW], end[:, None]), axis=1)


def _column(values: Sequence[float]) -> FloatArray:
    return np.array(values, dtype=np.float64)[:, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    """What replicas do at their loads, [replicas, points] and [replicas, points, samples]."""

    step_s: FloatArray
    service_s: FloatArray
    own_ttft_s: FloatArray
    mixed_share: FloatArray


def _curves(batch: _Batch, requests: Requests, percentile: float, sweep: _Sweep) -> list[LoadCurve]:
    """Assemble curves; rates are made non-decreasing by keeping the best reached so far."""
    cut, stages = batch.cut, batch.num_stages
    per_slot, step, service = cut(batch.per_slot), cut(sweep.step_s), cut(sweep.service_s)
    every_sequences = batch.per_slot * requests.mean_steps * stages
    every_tpot = sweep.step_s * stages
    tpot = step * stages if requests.mean_steps > 0.0 else np.zeros_like(step)
    mean = service @ requests.weights
    second = service**2 @ requests.weights
    with np.errstate(invalid="ignore", divide="ignore"):
        scv = np.where(mean > 0.0, second / mean**2 - 1.0, 0.0)
    met = np.minimum(_met(every_sequences, percentile), np.maximum(every_sequences, batch.slots[:, None]))
    high = _tpot_percentiles(met, (every_sequences, batch.sizes), every_tpot, requests)
    rates, tpots = np.maximum.accumulate(per_slot / step, axis=1), np.maximum.accumulate(tpot, axis=1)
    highs, own, mixed = cut(high), cut(sweep.own_ttft_s), cut(sweep.mixed_share)
    sequences = cut(every_sequences)
    return [
        LoadCurve(
            per_slot=per_slot[row],
            rate_rps=rates[row],
            step_s=step[row],
            tpot_s=tpots[row],
            tpot_high_s=highs[row],
            service_s=mean[row],
            service_scv=np.maximum(scv[row], 0.0),
            own_ttft_s=own[row],
            sequences=sequences[row],
            mixed_share=mixed[row],
            num_ranks=int(batch.num_ranks[row, 0]),
            num_stages=int(stages[row, 0]),
            slots=float(batch.slots[row]),
        )
        for row in range(batch.sizes.size)
    ]


def _tpot_percentiles(
    met: FloatArray, loads: tuple[FloatArray, IntArray], tpot: FloatArray, requests: Requests
) -> FloatArray:
    """Return TPOT at the load that is met; prompts that start meanwhile are counted in it.

    `loads` are sequences in flight, [replicas, points], and how many of the points of each replica count.
    """
    if requests.mean_steps <= 0.0:
        return np.zeros_like(tpot)
    sequences, sizes = loads
    found = np.zeros_like(tpot)
    for row, size in enumerate(sizes.tolist()):
        found[row, :size] = np.interp(met[row, :size], sequences[row, :size], tpot[row, :size])
    return np.maximum.accumulate(found, axis=1)


def _waited_for(limits: BatchLimits, *, prefills: bool) -> float:
    """Return the places that requests wait for: of who takes them as they come, prompt and all."""
    return limits.slots if prefills and not limits.closed_loop else np.inf


def _most_sequences(limits: BatchLimits, *, prefills: bool) -> float:
    slots = _waited_for(limits, prefills=prefills)
    return _MOST_SLOTS_IN_USE * slots if np.isfinite(slots) else limits.mean_sequences


def _load_points(cases: Sequence[Case], requests: Requests, percentile: float, *, prefills: bool) -> _Points:
    """Return loads to price: requests per step on a fixed geometric grid, and the highest stable one.

    The grid does not depend on the limits, so that looser limits never change what lies below them.
    """
    stable = np.full(len(cases), np.inf)
    if prefills:
        budgets = np.array([limits.token_budget for _, limits in cases])
        stable = _SATURATION * budgets / (requests.mean_new_tokens + requests.mean_steps)
    top = reach = stable
    if requests.mean_steps > 0.0:
        per_slot = requests.mean_steps * np.array([tables.num_stages for tables, _ in cases])
        fits = np.array([limits.cache_sequences >= 1.0 for _, limits in cases])
        mean = np.where(fits, [_most_sequences(limits, prefills=prefills) for _, limits in cases], 0.0)
        slots = np.array([_waited_for(limits, prefills=prefills) for _, limits in cases])
        top = np.minimum(top, mean / per_slot)
        reach = np.minimum(stable, np.minimum(_met(mean, percentile), slots) / per_slot)
    rows = np.flatnonzero(np.isfinite(top) & (top > 0.0))
    stable, top, reach = stable[rows, None], top[rows, None], reach[rows, None]
    last = np.floor(np.log2(top) * _POINTS_PER_OCTAVE - 1e-9)
    beyond = np.ceil(np.log2(np.maximum(reach, top)) * _POINTS_PER_OCTAVE) + 1
    first = last - _OCTAVES_BELOW * _POINTS_PER_OCTAVE
    steps = np.arange(int((beyond - first).max(initial=0.0)) + 1)
    grid = 2.0 ** ((first + steps) / _POINTS_PER_OCTAVE)
    inside = ((first + steps) <= beyond) & (grid < stable)
    sizes = inside.sum(axis=1) + 1
    # One load close to none comes first, the highest stable one (if there is any) last.
    end = np.where(np.isinf(stable), 2.0 ** (beyond / _POINTS_PER_OCTAVE), stable)
    body = np.concatenate((np.where(inside, grid, end), end), axis=1)
    return _Points(
        rows=rows,
        per_slot=np.concatenate((grid[:, :1] * 1e-3, body), axis=1),
        sizes=sizes + np.isfinite(stable[:, 0]),
        top=top[:, 0],
    )


def _met(sequences: FloatArray, percentile: float) -> FloatArray:
    """Return the load that a request meets over its life at a percentile.

    The number in flight is Poisson with mean d; its average over a residence time has variance 2 d / 3
    (covariance d (1 - |lag| / residence), integrated twice).

    Source: M/G/infinity covariance for deterministic residence; own derivation.
    """
    z = max(0.0, normal_quantile(percentile))
    return sequences + z * np.sqrt(2.0 * sequences / 3.0)


def _backlog_service_s(
    tables: TimeTables, requests: Requests, decode: FloatArray, budget: FloatArray
) -> FloatArray:
    """Return how much a prompt adds to a backlog, [replicas, points, samples]: its share of full chunks."""
    full = step_time(tables, decode, budget).slot_s[..., None]
    attention = tables.prompt_attention_s.max(axis=0)[..., None, :]
    return full * requests.new_tokens / budget[..., None] + attention
