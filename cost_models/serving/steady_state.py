"""Steady state of one replica over its load: continuous batching with chunked prefill, and its two halves.

Load is swept by the decode sequences in flight, because then every step's contents are known in
closed form: with d decode sequences per micro-batch step and s decode steps per request, r = d / s
requests finish, and hence start, per step, and bring r times the mean prompt with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.iteration import step_time
from cost_models.serving.queueing import normal_quantile
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables

OVERFLOW_PERCENTILE = 99.0
"""Running sequences may exceed the batch or cache limit at most this rarely (percent of the time)."""
_POINTS_PER_OCTAVE = 5
_SATURATION = 0.999


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


def aggregated_curve(
    tables: TimeTables, requests: Requests, limits: BatchLimits, percentile: float = 0.0
) -> LoadCurve | None:
    """Return the load curve of a replica that prefills and decodes; None if not even one request fits.

    A step carries d decode tokens and, in a share f of the steps, one chunk of prompt tokens; a prompt of
    p tokens needs p / c chunks of c = min(budget - d, max(p, prompt tokens arriving per step)). Mean step
    T = T(d, 0) + f_any (E[T(d, c)] - T(d, 0)), where f_any = 1 - (1 - f)^ranks: ranks run in lockstep.

    Source: own closed form, a mean-value model of chunked prefill (Sarathi-Serve, OSDI 2024).
    """
    points = _load_points(tables, requests, limits, percentile, prefills=True)
    if points is None:
        return None
    per_slot = points.per_slot
    decode = _decode_seen(tables, requests, limits, per_slot)
    budget = limits.token_budget - per_slot * requests.mean_steps
    empty = step_time(tables, decode, np.zeros_like(decode))
    arriving = (per_slot * requests.mean_new_tokens)[:, None]
    new = requests.new_tokens[None, :]
    chunk = np.minimum(budget[:, None], np.maximum(new, arriving))
    num_chunks = new / chunk
    attention = tables.prompt_attention_s[:, None, :] * (chunk / new)[None]
    mixed = step_time(tables, np.broadcast_to(decode[:, None], chunk.shape), chunk, attention)
    busy = per_slot * (num_chunks @ requests.weights)
    any_busy = 1.0 - (1.0 - np.minimum(busy, 1.0)) ** tables.num_attention_ranks
    extra = (num_chunks * (mixed.slot_s - empty.slot_s[:, None])) @ requests.weights
    step = empty.slot_s + per_slot * extra * any_busy / np.maximum(busy, 1e-300)
    whole = np.maximum(np.ceil(num_chunks - 1e-9), 1.0)
    own = (
        np.maximum(num_chunks, 1.0) * mixed.slot_s
        + (whole - np.maximum(num_chunks, 1.0)) * empty.slot_s[:, None]
        + mixed.fill_s
    )
    waiting_for_step = 0.5 * empty.slot_s if requests.mean_steps > 0.0 else np.zeros_like(step)
    service = _backlog_service_s(tables, requests, decode, budget)
    return _curve(
        tables,
        requests,
        percentile,
        _Sweep(
            points=points,
            step_s=step,
            service_s=service,
            own_ttft_s=own + waiting_for_step[:, None] + tables.per_request_s,
            mixed_share=any_busy,
        ),
    )


def decode_curve(
    tables: TimeTables, requests: Requests, limits: BatchLimits, percentile: float = 0.0
) -> LoadCurve | None:
    """Return the load curve of a replica that only decodes; None if not even one request fits."""
    points = _load_points(tables, requests, limits, percentile, prefills=False)
    if points is None:
        return None
    per_slot = points.per_slot
    decode = _decode_seen(tables, requests, limits, per_slot)
    step = step_time(tables, decode, np.zeros_like(decode)).slot_s
    none = np.zeros((per_slot.size, requests.weights.size))
    sweep = _Sweep(
        points=points, step_s=step, service_s=none, own_ttft_s=none, mixed_share=np.zeros_like(step)
    )
    return _curve(tables, requests, percentile, sweep)


def prefill_curve(tables: TimeTables, requests: Requests, token_budget: float) -> LoadCurve:
    """Return the load curve of a replica that only prefills: prompts in order, in chunks of the budget.

    Chunks of one prompt follow each other through the pipeline, so a prompt holds the slowest stage for
    the sum of its chunks and needs the other stages' time once more.
    """
    new = requests.new_tokens
    num_chunks = np.maximum(np.ceil(new / token_budget - 1e-9), 1.0)
    attention = tables.prompt_attention_s / num_chunks
    chunk = step_time(tables, np.zeros_like(new), new / num_chunks, attention)
    own = num_chunks * chunk.slot_s + chunk.fill_s + tables.per_request_s
    none = np.zeros(1)
    service = np.minimum(
        num_chunks * chunk.slot_s, _backlog_service_s(tables, requests, none, none + token_budget)[0]
    )
    mean = requests.mean(service)
    points = np.array([1e-9, _SATURATION])
    two = np.ones(2)
    return LoadCurve(
        per_slot=points,
        rate_rps=points / mean,
        step_s=two * mean,
        tpot_s=two * 0.0,
        tpot_high_s=two * 0.0,
        service_s=two * mean,
        service_scv=two * (requests.mean(service**2) / mean**2 - 1.0),
        own_ttft_s=np.broadcast_to(own, (2, own.size)),
        sequences=two * 0.0,
        mixed_share=points,
        num_ranks=tables.num_attention_ranks,
        num_stages=tables.num_stages,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """Loads to price; those beyond `top` only serve to see what a busier moment costs."""

    per_slot: FloatArray
    top: float

    def cut(self, values: FloatArray) -> FloatArray:
        """Return values up to `top`, the last one interpolated between the loads around it."""
        last = int(np.searchsorted(self.per_slot, self.top))
        low, high = self.per_slot[last - 1], self.per_slot[last]
        end = values[last - 1] + (self.top - low) / (high - low) * (values[last] - values[last - 1])
        return np.concatenate((values[:last], end[None]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sweep:
    points: _Points
    step_s: FloatArray
    service_s: FloatArray
    own_ttft_s: FloatArray
    mixed_share: FloatArray


def _curve(tables: TimeTables, requests: Requests, percentile: float, sweep: _Sweep) -> LoadCurve:
    """Assemble a curve; rates are made non-decreasing by keeping the best reached so far."""
    cut = sweep.points.cut
    per_slot = cut(sweep.points.per_slot)
    every_sequences = sweep.points.per_slot * requests.mean_steps * tables.num_stages
    every_tpot = sweep.step_s * tables.num_stages
    step, service = cut(sweep.step_s), cut(sweep.service_s)
    tpot = step * tables.num_stages if requests.mean_steps > 0.0 else np.zeros_like(step)
    mean = service @ requests.weights
    second = service**2 @ requests.weights
    with np.errstate(invalid="ignore", divide="ignore"):
        scv = np.where(mean > 0.0, second / mean**2 - 1.0, 0.0)
    return LoadCurve(
        per_slot=per_slot,
        rate_rps=np.maximum.accumulate(per_slot / step),
        step_s=step,
        tpot_s=np.maximum.accumulate(tpot),
        tpot_high_s=cut(_tpot_percentile(every_sequences, every_tpot, percentile, requests)),
        service_s=mean,
        service_scv=np.maximum(scv, 0.0),
        own_ttft_s=cut(sweep.own_ttft_s),
        sequences=cut(every_sequences),
        mixed_share=cut(sweep.mixed_share),
        num_ranks=tables.num_attention_ranks,
        num_stages=tables.num_stages,
    )


def _tpot_percentile(
    sequences: FloatArray, tpot: FloatArray, percentile: float, requests: Requests
) -> FloatArray:
    """Return TPOT at a percentile: that of the load which a request meets over its life at that percentile.

    The number in flight is Poisson with mean d; its average over a residence time has variance 2 d / 3
    (covariance d (1 - |lag| / residence), integrated twice). Prompts that start meanwhile are counted in it.

    Source: M/G/infinity covariance for deterministic residence; own derivation.
    """
    if requests.mean_steps <= 0.0:
        return np.zeros_like(tpot)
    return np.maximum.accumulate(np.interp(_met(sequences, percentile), sequences, tpot))


def _load_points(
    tables: TimeTables, requests: Requests, limits: BatchLimits, percentile: float, *, prefills: bool
) -> _Points | None:
    """Return loads to price: requests per step on a fixed geometric grid, and the highest stable one.

    The grid does not depend on the limits, so that looser limits never change what lies below them.
    """
    stable = np.inf
    if prefills:
        stable = _SATURATION * limits.token_budget / (requests.mean_new_tokens + requests.mean_steps)
    top = reach = stable
    if requests.mean_steps > 0.0:
        if limits.cache_sequences < 1.0:
            return None
        mean, per_slot = limits.mean_sequences, requests.mean_steps * tables.num_stages
        top = min(top, mean / per_slot)
        reach = min(stable, _met(np.array(mean), percentile).item() / per_slot)
    if not np.isfinite(top) or top <= 0.0:
        return None
    last = int(np.floor(np.log2(top) * _POINTS_PER_OCTAVE - 1e-9))
    beyond = int(np.ceil(np.log2(max(reach, top)) * _POINTS_PER_OCTAVE)) + 1
    grid = 2.0 ** (np.arange(last - 9 * _POINTS_PER_OCTAVE, beyond + 1) / _POINTS_PER_OCTAVE)
    grid = np.concatenate(([grid[0] * 1e-3], grid[grid < stable]))
    return _Points(per_slot=grid if np.isinf(stable) else np.append(grid, stable), top=top)


def _met(sequences: FloatArray, percentile: float) -> FloatArray:
    """Return the load that a request meets over its life at a percentile (see `_tpot_percentile`)."""
    z = max(0.0, normal_quantile(percentile))
    return sequences + z * np.sqrt(2.0 * sequences / 3.0)


def _decode_seen(
    tables: TimeTables, requests: Requests, limits: BatchLimits, per_slot: FloatArray
) -> FloatArray:
    """Return the decode batch that a running request meets: the mean and, in an open loop, itself."""
    if requests.mean_steps <= 0.0:
        return np.zeros_like(per_slot)
    itself = 0.0 if limits.closed_loop else 1.0 / tables.num_stages
    seen = np.maximum(per_slot * requests.mean_steps + itself, 1.0)
    return np.minimum(seen, max(1.0, limits.max_sequences))


def _backlog_service_s(
    tables: TimeTables, requests: Requests, decode: FloatArray, budget: FloatArray
) -> FloatArray:
    """Return the time by which a prompt lengthens a backlog, [points, samples]: its share of full chunks."""
    full = step_time(tables, decode, budget).slot_s[:, None]
    attention = tables.prompt_attention_s.max(axis=0)[None, :]
    return full * requests.new_tokens[None, :] / budget[:, None] + attention
