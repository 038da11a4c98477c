"""Latency of pools at a load, and the highest load at which they meet their limits.

Many shapes are evaluated at once: curves are stacked, and an entry is one shape with one replica count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.queueing import Arrivals, Waiting, waiting_time
from cost_models.serving.requests import Requests
from cost_models.serving.steady_state import LoadCurve

IntArray = NDArray[np.intp]
BoolArray = NDArray[np.bool_]
_BISECTIONS = 24
_COARSE_BISECTIONS = 12
_PERCENTILE_BISECTIONS = 32
_CLOSED_LOOP_ROUNDS = 4
_STAY_SCV = 0.5
"""Squared variation of stays of equal outputs; judged from step-by-step simulations of 4 to 100 places."""
MAX_REPLICAS_PER_QUEUE = 64
"""A router keeps one queue for at most so many replicas; larger pools are several such queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyLimits:
    """Upper limits, seconds, at `percentile` (0: the mean); infinite is no limit."""

    ttft_s: float = np.inf
    tpot_s: float = np.inf
    e2e_s: float = np.inf
    percentile: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """Stacked curves of shapes of one role, [shapes, points]; `own_ttft_s` has a last axis of samples.

    `elsewhere_step_s` is what a decode step takes in another pool: it counts for the end-to-end time of a
    pool that does not decode itself. Requests go to the least loaded replica, so a pool is one queue with
    as many servers as it has attention ranks; where `slots` of a rank are finite, they first wait for one.
    """

    requests: Requests
    arrivals: Arrivals
    rate_rps: FloatArray
    step_s: FloatArray
    tpot_s: FloatArray
    tpot_high_s: FloatArray
    service_s: FloatArray
    service_scv: FloatArray
    own_ttft_s: FloatArray
    sequences: FloatArray
    mixed_share: FloatArray
    num_ranks: FloatArray
    slots: FloatArray
    elsewhere_step_s: float = 0.0
    own_mean_s: FloatArray = field(init=False)
    own_is_constant: bool = field(init=False)

    def __post_init__(self) -> None:
        """Average over the samples once, and see whether the load matters to them at all."""
        object.__setattr__(self, "own_mean_s", self.own_ttft_s @ self.requests.weights)
        constant = bool((self.own_ttft_s == self.own_ttft_s[:, :1]).all())
        object.__setattr__(self, "own_is_constant", constant)

    @staticmethod
    def stack(
        curves: Sequence[LoadCurve],
        requests: Requests,
        arrivals: Arrivals,
        extra_ttft_s: FloatArray | float = 0.0,
        elsewhere_step_s: float = 0.0,
    ) -> Pools:
        """Stack curves of equal length; `extra_ttft_s` [shapes, samples] is added to every first token."""

        def stacked(name: str) -> FloatArray:
            return np.array([getattr(curve, name) for curve in curves], dtype=np.float64)

        extra = np.asarray(extra_ttft_s, dtype=np.float64)
        own = stacked("own_ttft_s") + (extra[:, None, :] if extra.ndim == 2 else extra)
        return Pools(
            requests=requests,
            arrivals=arrivals,
            rate_rps=stacked("rate_rps"),
            step_s=stacked("step_s"),
            tpot_s=stacked("tpot_s"),
            tpot_high_s=stacked("tpot_high_s"),
            service_s=stacked("service_s"),
            service_scv=stacked("service_scv"),
            own_ttft_s=own,
            sequences=stacked("sequences"),
            mixed_share=stacked("mixed_share"),
            num_ranks=np.array([curve.num_ranks for curve in curves], dtype=np.float64),
            slots=np.array([curve.slots for curve in curves], dtype=np.float64),
            elsewhere_step_s=elsewhere_step_s,
        )

    @property
    def num_points(self) -> int:
        """Points per curve."""
        return int(self.rate_rps.shape[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Which shapes with how many replicas: two arrays of equal length."""

    shape: IntArray
    replicas: FloatArray

    def only(self, keep: IntArray) -> Entries:
        """Return a selection."""
        return Entries(shape=self.shape[keep], replicas=self.replicas[keep])

    @staticmethod
    def one(shape: int, replicas: int) -> Entries:
        """Return a single entry."""
        return Entries(shape=np.array([shape], dtype=np.intp), replicas=np.array([float(replicas)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """Pools at a load, one value per entry; `rate_rps` is that of the whole pool."""

    rate_rps: FloatArray
    ttft_s: FloatArray
    tpot_s: FloatArray
    tpot_high_s: FloatArray
    e2e_s: FloatArray
    waiting: Waiting
    position: FloatArray
    sequences: FloatArray
    utilisation: FloatArray
    mixed_share: FloatArray


def state_at(pools: Pools, entries: Entries, position: FloatArray) -> PoolState:
    """Return the pools at a fractional index into their curves."""
    left = np.minimum(position.astype(np.intp), pools.num_points - 2)
    share = position - left
    rows = entries.shape

    def at(values: FloatArray) -> FloatArray:
        low = values[rows, left]
        return low + share * (values[rows, left + 1] - low)

    rate, service, tpot = at(pools.rate_rps), at(pools.service_s), at(pools.tpot_s)
    ranks = entries.replicas * pools.num_ranks[rows]
    servers = np.minimum(entries.replicas, MAX_REPLICAS_PER_QUEUE) * pools.num_ranks[rows]
    own_mean = at(pools.own_mean_s)
    rest_s = (tpot + pools.elsewhere_step_s) * pools.requests.mean_steps
    waiting = _waiting(pools, (rate, service, at(pools.service_scv)), servers, own_mean + rest_s)
    if np.isfinite(pools.slots).any():
        waiting = _slot_waiting(pools, rows, servers, rate, rest_s).then(waiting)
    ttft = waiting.mean_s + own_mean
    return PoolState(
        rate_rps=rate * ranks,
        ttft_s=ttft,
        tpot_s=tpot,
        tpot_high_s=at(pools.tpot_high_s),
        e2e_s=ttft + rest_s,
        waiting=waiting,
        position=position,
        sequences=at(pools.sequences),
        utilisation=rate * service,
        mixed_share=at(pools.mixed_share),
    )


def own_ttft_s(pools: Pools, entries: Entries, position: FloatArray) -> FloatArray:
    """Return the time to first token without waiting, [entries, samples]."""
    if pools.own_is_constant:
        return pools.own_ttft_s[entries.shape, 0]
    left = np.minimum(position.astype(np.intp), pools.num_points - 2)
    low = pools.own_ttft_s[entries.shape, left]
    return low + (position - left)[:, None] * (pools.own_ttft_s[entries.shape, left + 1] - low)


def _waiting(
    pools: Pools, load: tuple[FloatArray, FloatArray, FloatArray], ranks: FloatArray, busy_s: FloatArray
) -> Waiting:
    """Return the waiting time; in a closed loop the population follows from it by Little's law."""
    rate, service, scv = load
    if not pools.arrivals.closed:
        return waiting_time(rate, service, scv, ranks, pools.arrivals.scv)
    population = rate * busy_s
    waiting = waiting_time(rate, service, scv, ranks, population=population)
    for _ in range(_CLOSED_LOOP_ROUNDS):
        population = rate * (busy_s + np.minimum(waiting.mean_s, 1e6))
        waiting = waiting_time(rate, service, scv, ranks, population=population)
    return waiting


def _slot_waiting(
    pools: Pools, rows: IntArray, ranks: FloatArray, rate: FloatArray, rest_s: FloatArray
) -> Waiting:
    """Return the wait for a place among the running sequences, which a request holds while it decodes.

    Stays vary with the outputs, and because steps are longer the more requests are in them.
    """
    slots = pools.slots[rows]
    scv = np.asarray(pools.requests.steps_scv + _STAY_SCV)
    return waiting_time(rate / slots, rest_s, scv, ranks * slots, pools.arrivals.scv)


def meets(pools: Pools, entries: Entries, state: PoolState, limits: LatencyLimits) -> BoolArray:
    """Return whether each entry meets every limit.

    At a percentile: P(wait > limit - own time), averaged over the samples, is at most 1 - percentile.
    """
    if limits.percentile <= 0.0:
        return (
            (state.ttft_s <= limits.ttft_s) & (state.e2e_s <= limits.e2e_s) & (state.tpot_s <= limits.tpot_s)
        )
    allowed = 1.0 - limits.percentile / 100.0 + 1e-12
    fine = state.tpot_high_s <= limits.tpot_s
    if not (np.isfinite(limits.ttft_s) or np.isfinite(limits.e2e_s)):
        return fine
    own = own_ttft_s(pools, entries, state.position)
    if np.isfinite(limits.ttft_s):
        fine &= _late_share(pools, state, limits.ttft_s - own) <= allowed
    if np.isfinite(limits.e2e_s):
        steps_s = (state.tpot_high_s[:, None] + pools.elsewhere_step_s) * pools.requests.steps
        fine &= _late_share(pools, state, limits.e2e_s - own - steps_s) <= allowed
    return fine


def _late_share(pools: Pools, state: PoolState, slack_s: FloatArray) -> FloatArray:
    spread = Waiting(
        probability=state.waiting.probability[:, None], mean_if_s=state.waiting.mean_if_s[:, None]
    )
    return spread.exceeds(slack_s) @ pools.requests.weights


def capacity_position(pools: Pools, entries: Entries, limits: LatencyLimits) -> FloatArray:
    """Return the highest position that meets the limits, per entry; -1 where none does.

    All latencies rise with the load, so bisection finds it.
    """
    found = np.full(entries.shape.size, -1.0)
    possible = np.flatnonzero(_fine_at(pools, entries, np.zeros(entries.shape.size), limits))
    entries = entries.only(possible)
    top = np.full(possible.size, float(pools.num_points - 1))
    open_ended = _fine_at(pools, entries, top, limits)
    found[possible[open_ended]] = top[open_ended]
    entries, possible = entries.only(np.flatnonzero(~open_ended)), possible[~open_ended]
    low, high = np.zeros(possible.size), np.full(possible.size, float(pools.num_points - 1))
    for _ in range(_BISECTIONS if possible.size else 0):
        middle = 0.5 * (low + high)
        fine = _fine_at(pools, entries, middle, limits)
        low = np.where(fine, middle, low)
        high = np.where(fine, high, middle)
    found[possible] = low
    return found


def _fine_at(pools: Pools, entries: Entries, position: FloatArray, limits: LatencyLimits) -> BoolArray:
    return meets(pools, entries, state_at(pools, entries, position), limits)


def position_at_rate(pools: Pools, entries: Entries, rate_rps: FloatArray | float) -> FloatArray:
    """Return the position at which each pool carries `rate_rps` in all; -1 where it cannot."""
    per_rank = np.broadcast_to(
        rate_rps / (entries.replicas * pools.num_ranks[entries.shape]), entries.shape.shape
    )
    rates = pools.rate_rps[entries.shape]
    below = (rates <= per_rank[:, None]).sum(axis=1, dtype=np.intp)
    left = np.minimum(np.maximum(below - 1, 0), pools.num_points - 2)
    rows = np.arange(entries.shape.size)
    low, high = rates[rows, left], rates[rows, left + 1]
    share = np.clip((per_rank - low) / np.maximum(high - low, 1e-300), 0.0, 1.0)
    return np.where(per_rank <= rates[:, -1] * (1.0 + 1e-9), left + share, -1.0)


def position_at_concurrency(pools: Pools, entries: Entries, concurrency: float) -> FloatArray:
    """Return the position at which `concurrency` requests circulate in each pool (Little's law).

    More requests than a pool can run wait outside: the position is then the last one.
    """
    low = np.zeros(entries.shape.size)
    high = np.full(entries.shape.size, float(pools.num_points - 1))
    inside_low, inside_high = _inside(pools, entries, low), _inside(pools, entries, high)
    for _ in range(_COARSE_BISECTIONS):
        middle = 0.5 * (low + high)
        inside = _inside(pools, entries, middle)
        fits = inside <= concurrency
        low, inside_low = np.where(fits, middle, low), np.where(fits, inside, inside_low)
        high, inside_high = np.where(fits, high, middle), np.where(fits, inside_high, inside)
    share = (concurrency - inside_low) / np.maximum(inside_high - inside_low, 1e-300)
    return low + np.clip(share, 0.0, 1.0) * (high - low)


def _inside(pools: Pools, entries: Entries, position: FloatArray) -> FloatArray:
    """Return the requests inside each pool, at most 1e12 (saturated queues are infinite)."""
    state = state_at(pools, entries, position)
    return np.minimum(state.rate_rps * state.e2e_s, 1e12)


def ttft_percentiles(pools: Pools, entry: Entries, state: PoolState, percentiles: FloatArray) -> FloatArray:
    """Return TTFT at percentiles, seconds, for a state of one entry."""
    return e2e_percentiles(pools, entry, state, percentiles, 0.0)


def e2e_percentiles(
    pools: Pools, entry: Entries, state: PoolState, percentiles: FloatArray, step_s: float
) -> FloatArray:
    """Return end-to-end latency at percentiles, seconds, each decode step taking `step_s`."""
    allowed = 1.0 - percentiles / 100.0
    base = own_ttft_s(pools, entry, state.position)[0] + step_s * pools.requests.steps
    probability, mean_if_s = float(state.waiting.probability[0]), float(state.waiting.mean_if_s[0])
    if not np.isfinite(mean_if_s):
        return np.full(percentiles.size, np.inf)
    if base.size == 1:
        # one length: the wait is zero or exponential, so its percentile has a closed form
        late = np.maximum(probability / allowed, 1.0)
        return base[0] + mean_if_s * np.log(late)
    waiting = Waiting(probability=np.array(probability), mean_if_s=np.array(mean_if_s))
    low = np.zeros(percentiles.size)
    high = np.full(percentiles.size, float(base.max()) + 50.0 * mean_if_s + 1e-9)
    for _ in range(_PERCENTILE_BISECTIONS):
        middle = 0.5 * (low + high)
        late = waiting.exceeds(middle[:, None] - base[None, :]) @ pools.requests.weights > allowed
        low, high = np.where(late, middle, low), np.where(late, high, middle)
    return high
