"""The pools of a solution at the load they carry: how traffic is shared and what each pool then does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.capacity import (
    Entries,
    Pools,
    PoolState,
    capacity_position,
    e2e_percentiles,
    position_at_concurrency,
    position_at_rate,
    state_at,
    ttft_percentiles,
)
from planner.search.serving_pools import Context, PoolPick, PoolTables, role_limits
from planner.search.serving_question import Question

_BISECTIONS = 60
REPORTED_PERCENTILES = (50.0, 90.0, 99.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPool:
    """One pool at its share of the traffic."""

    pick: PoolPick
    capacity_rps: float
    rate_rps: float
    pools: Pools
    entry: Entries
    state: PoolState

    def ttft_percentiles_s(self, percentiles: FloatArray) -> FloatArray:
        """Return TTFT of the pool at percentiles, seconds."""
        return ttft_percentiles(self.pools, self.entry, self.state, percentiles)

    def e2e_percentiles_s(self, percentiles: FloatArray, step_s: float) -> FloatArray:
        """Return end-to-end latency at percentiles with so many seconds per decode step."""
        return e2e_percentiles(self.pools, self.entry, self.state, percentiles, step_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedPlan:
    """All pools at their loads, with the means over the traffic and the worst pool at percentiles.

    Times in seconds, rates in requests per second.
    """

    pools: tuple[LoadedPool, ...]
    rate_rps: float
    capacity_rps: float
    ttft_s: float
    tpot_s: float
    tpot_high_s: float
    e2e_s: float
    ttft_percentiles_s: tuple[tuple[float, float], ...]
    e2e_percentiles_s: tuple[tuple[float, float], ...]


def load_plan(tables: PoolTables, picks: tuple[PoolPick, ...], question: Question) -> LoadedPlan:
    """Return the plan at the demanded load, or at its capacity where no load is demanded."""
    capacities = [_capacity(tables, pick, question) for pick in picks]
    totals: dict[tuple[Context | None, str], float] = {}
    for pick, own in zip(picks, capacities, strict=True):
        key = (pick.context, pick.role)
        totals[key] = totals.get(key, 0.0) + own
    paired = {
        context: min(totals.get((context, "prefill"), 0.0), totals.get((context, "decode"), 0.0))
        for context, _ in totals
        if context is not None
    }
    capacity = totals.get((None, "aggregated"), 0.0) + sum(paired.values())
    rate = question.rate_rps if question.rate_rps is not None else capacity
    if question.concurrency is not None:
        rate = _closed_loop_rate(tables, picks, question, capacity)
    share = rate / capacity if capacity > 0.0 else 0.0
    loaded: list[LoadedPool] = []
    for pick, own in zip(picks, capacities, strict=True):
        both = None if pick.context is None else paired[pick.context]
        part = 1.0 if both is None else both / max(totals[pick.context, pick.role], 1e-300)
        loaded.append(_loaded(tables, pick, own, own * part * share))
    return _summary(tables, tuple(loaded), rate, capacity, question)


def _capacity(tables: PoolTables, pick: PoolPick, question: Question) -> float:
    pools = tables.pools(pick.role, pick.context)
    entries = Entries.one(tables.row_of(pick), pick.replicas)
    position = capacity_position(pools, entries, role_limits(pick.role, pick.context, question.limits))
    return float(state_at(pools, entries, np.maximum(position, 0.0)).rate_rps[0]) if position[0] >= 0 else 0.0


def _loaded(tables: PoolTables, pick: PoolPick, capacity: float, rate: float) -> LoadedPool:
    pools = tables.pools(pick.role, pick.context)
    entries = Entries.one(tables.row_of(pick), pick.replicas)
    position = np.maximum(position_at_rate(pools, entries, rate * (1.0 - 1e-12)), 0.0)
    return LoadedPool(
        pick=pick,
        capacity_rps=capacity,
        rate_rps=rate,
        pools=pools,
        entry=entries,
        state=state_at(pools, entries, position),
    )


def _closed_loop_rate(
    tables: PoolTables, picks: tuple[PoolPick, ...], question: Question, capacity: float
) -> float:
    """Return the rate at which the demanded number of requests circulates (one pool, or one pair)."""
    concurrency = float(question.concurrency or 0)
    if len(picks) == 1:
        pools = tables.pools(picks[0].role, None)
        entries = Entries.one(tables.row_of(picks[0]), picks[0].replicas)
        position = position_at_concurrency(pools, entries, concurrency)
        return float(state_at(pools, entries, position).rate_rps[0])
    low, high = 0.0, capacity
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        pools = tuple(_loaded(tables, pick, middle, middle) for pick in picks)
        inside = middle * (_ttft(pools) + _step(pools) * tables.catalogue.requests.mean_steps)
        low, high = (middle, high) if inside <= concurrency else (low, middle)
    return low


def _ttft(pools: tuple[LoadedPool, ...]) -> float:
    first = [pool for pool in pools if pool.pick.role != "decode"]
    total = sum(pool.rate_rps for pool in first)
    return sum(float(pool.state.ttft_s[0]) * pool.rate_rps for pool in first) / max(total, 1e-300)


def _step(pools: tuple[LoadedPool, ...]) -> float:
    steps = [pool for pool in pools if pool.pick.role != "prefill"]
    total = sum(pool.rate_rps for pool in steps)
    return sum(float(pool.state.tpot_s[0]) * pool.rate_rps for pool in steps) / max(total, 1e-300)


def _summary(
    tables: PoolTables, pools: tuple[LoadedPool, ...], rate: float, capacity: float, question: Question
) -> LoadedPlan:
    ttft, step = _ttft(pools), _step(pools)
    asked = question.limits.percentile
    wanted: set[float] = {*REPORTED_PERCENTILES}
    if asked > 0.0:
        wanted.add(asked)
    percentiles = np.array(sorted(wanted))
    high = max((float(p.state.tpot_high_s[0]) for p in pools if p.pick.role != "prefill"), default=0.0)
    first = [pool for pool in pools if pool.pick.role != "decode"]
    return LoadedPlan(
        pools=pools,
        rate_rps=rate,
        capacity_rps=capacity,
        ttft_s=ttft,
        tpot_s=step,
        tpot_high_s=high,
        e2e_s=ttft + step * tables.catalogue.requests.mean_steps,
        ttft_percentiles_s=_worst(percentiles, [pool.ttft_percentiles_s(percentiles) for pool in first]),
        e2e_percentiles_s=_worst(
            percentiles, [pool.e2e_percentiles_s(percentiles, _high_step(pool, high)) for pool in first]
        ),
    )


def _worst(percentiles: FloatArray, of_pools: list[FloatArray]) -> tuple[tuple[float, float], ...]:
    """Return (percentile, value in the slowest pool)."""
    worst = np.max(np.stack(of_pools), axis=0)
    return tuple((float(p), float(value)) for p, value in zip(percentiles, worst, strict=True))


def _high_step(pool: LoadedPool, high: float) -> float:
    return float(pool.state.tpot_high_s[0]) if pool.pick.role == "aggregated" else high
