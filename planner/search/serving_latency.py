"""The fastest plan at a given load: one pool, or one pair of pools, over every offer and replica count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.capacity import meets, position_at_concurrency, state_at
from planner.ir.serving import Role
from planner.search.serving_contexts import cross_contexts, inner_contexts
from planner.search.serving_pools import Context, PoolPick, PoolTables, role_limits
from planner.search.serving_question import Question
from planner.search.serving_solver import SAME, Solution, within

_UNLOADED_RPS = 1e-9
_BISECTIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class _Half:
    """Fastest pool of one role by devices on one group: seconds (infinite: none), and which entry."""

    seconds: FloatArray
    entry: NDArray[np.intp]


def fastest(tables: PoolTables, question: Question) -> Solution | None:
    """Return the plan of least mean end-to-end latency that carries the demand within the limits.

    Open loop: at the demanded rate (or unloaded). Closed loop: with the demanded requests inside, which is
    also the plan of highest throughput.
    """
    candidates: list[tuple[float, int, tuple[PoolPick, ...], tuple[int, ...]]] = []
    if "aggregated" in question.modes:
        candidates.extend(_fastest_aggregated(tables, question))
    if "disaggregated" in question.modes:
        for context, groups in _contexts(tables, question):
            if tables.out_of_time():
                break
            candidates.extend(_fastest_pair(tables, question, context, groups))
    if not candidates:
        return None
    seconds, _, picks, devices = min(candidates, key=lambda c: (round(c[0], 12), c[1]))
    rate = question.rate_rps or 0.0
    return Solution(
        picks=picks,
        value=seconds,
        bound=seconds,
        capacity=float(question.concurrency or rate),
        devices=devices,
    )


def _contexts(tables: PoolTables, question: Question) -> Iterator[tuple[Context, tuple[int, int]]]:
    groups = range(len(question.resources.num_devices))
    for prefill in groups:
        for decode in groups:
            found = (
                inner_contexts(tables.catalogue, prefill, question)
                if prefill == decode
                else cross_contexts(tables.catalogue, question)
            )
            for context in found:
                yield context, (prefill, decode)


def _fastest_aggregated(
    tables: PoolTables, question: Question
) -> Iterator[tuple[float, int, tuple[PoolPick, ...], tuple[int, ...]]]:
    entries = tables.entries("aggregated", question)
    if not entries.shape.size:
        return
    pools = tables.pools("aggregated", None)
    if question.concurrency is not None:
        state = state_at(pools, entries, position_at_concurrency(pools, entries, float(question.concurrency)))
        able = state.rate_rps * state.e2e_s >= question.concurrency * (1.0 - 1e-6)
    else:
        state, able = tables.states_at_rate("aggregated", None, question, question.rate_rps or _UNLOADED_RPS)
    able = able & meets(pools, entries, state, question.limits)
    seconds = np.where(able, state.e2e_s, np.inf)
    yield from _cheapest_of(tables, question, "aggregated", None, seconds)


def _cheapest_of(
    tables: PoolTables, question: Question, role: Role, context: Context | None, seconds: FloatArray
) -> Iterator[tuple[float, int, tuple[PoolPick, ...], tuple[int, ...]]]:
    num_groups = len(question.resources.num_devices)
    for group in range(num_groups):
        half = _half(tables, question, (role, context, group), seconds)
        for n in range(1, half.seconds.size):
            devices = tuple(n if g == group else 0 for g in range(num_groups))
            fits = within(np.array([devices]), question.resources, question.budget)[0]
            if fits and np.isfinite(half.seconds[n]):
                yield float(half.seconds[n]), n, (_pick(tables, question, role, context, half, n),), devices


def _half(
    tables: PoolTables, question: Question, where: tuple[Role, Context | None, int], seconds: FloatArray
) -> _Half:
    """Return the fastest entry of exactly n devices of a group, for every n."""
    role, _, group = where
    entries = tables.entries(role, question)
    widths = np.array(
        [tables.catalogue.offers[i].replica.num_devices for i in tables.catalogue.by_role(role)],
        dtype=np.intp,
    )
    width = widths[entries.shape] * entries.replicas.astype(np.intp)
    allowed = np.where(tables.accepted(where, question, entries) > 0.0, seconds, np.inf)
    size = question.resources.num_devices[group]
    best = np.full(size + 1, np.inf)
    entry = np.full(size + 1, -1, dtype=np.intp)
    order = np.argsort(-allowed, kind="stable")
    order = order[np.isfinite(allowed[order]) & (width[order] <= size)]
    best[width[order]] = allowed[order]
    entry[width[order]] = order
    return _Half(seconds=best, entry=entry)


def _pick(
    tables: PoolTables, question: Question, role: Role, context: Context | None, half: _Half, n: int
) -> PoolPick:
    entries = tables.entries(role, question)
    at = int(half.entry[n])
    return PoolPick(
        role=role,
        offer=tables.catalogue.by_role(role)[int(entries.shape[at])],
        replicas=int(entries.replicas[at]),
        context=context,
    )


def _fastest_pair(
    tables: PoolTables, question: Question, context: Context, groups: tuple[int, int]
) -> Iterator[tuple[float, int, tuple[PoolPick, ...], tuple[int, ...]]]:
    if not tables.catalogue.by_role("prefill") or not tables.catalogue.by_role("decode"):
        return
    if question.concurrency is None:
        found = _pair_at(tables, question, context, groups, question.rate_rps or _UNLOADED_RPS)
        if found is not None:
            yield found
        return
    low, best = 0.0, None
    high = _highest_rate(tables, question, context)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        found = _pair_at(tables, question, context, groups, middle)
        if found is not None and found[0] * middle <= float(question.concurrency):
            low, best = middle, found
        else:
            high = middle
    if best is not None and best[0] * low >= float(question.concurrency) * (1.0 - 1e-6):
        yield best


def _highest_rate(tables: PoolTables, question: Question, context: Context) -> float:
    return float(max(tables.capacity("prefill", context, question)[0].max(initial=0.0), 0.0))


def _pair_at(
    tables: PoolTables, question: Question, context: Context, groups: tuple[int, int], rate: float
) -> tuple[float, int, tuple[PoolPick, ...], tuple[int, ...]] | None:
    halves: list[_Half] = []
    roles: tuple[Role, Role] = ("prefill", "decode")
    for role, group in zip(roles, groups, strict=True):
        state, able = tables.states_at_rate(role, context, question, rate)
        pools = tables.pools(role, context)
        able = able & meets(
            pools, tables.entries(role, question), state, role_limits(role, context, question.limits)
        )
        seconds = state.ttft_s if role == "prefill" else state.tpot_s * tables.catalogue.requests.mean_steps
        halves.append(_half(tables, question, (role, context, group), np.where(able, seconds, np.inf)))
    total = halves[0].seconds[:, None] + halves[1].seconds[None, :]
    rows, cols = np.nonzero(np.isfinite(total))
    devices = np.zeros((rows.size, len(question.resources.num_devices)), dtype=np.intp)
    devices[:, groups[0]] += rows
    devices[:, groups[1]] += cols
    fine = within(devices, question.resources, question.budget) & (rows + cols <= context.max_devices)
    fine &= (devices <= np.array(question.resources.num_devices)).all(axis=1)
    if not fine.any():
        return None
    rows, cols, devices = rows[fine], cols[fine], devices[fine]
    seconds = total[rows, cols]
    near = np.flatnonzero(seconds <= seconds.min() * (1.0 + SAME))
    at = near[np.argmin((rows + cols)[near])]
    picks = (
        _pick(tables, question, "prefill", context, halves[0], int(rows[at])),
        _pick(tables, question, "decode", context, halves[1], int(cols[at])),
    )
    return float(seconds[at]), int(rows[at] + cols[at]), picks, tuple(int(n) for n in devices[at])
