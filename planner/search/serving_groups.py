"""What one group can do with n of its devices: aggregated pools and inner pairs, combined exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.capacity import Entries, position_at_rate, state_at
from planner.search.serving_contexts import inner_contexts
from planner.search.serving_pools import Context, PoolPick, PoolTables, RoleTable
from planner.search.serving_question import Question

IntArray = NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Prefill on `prefill` devices and decode on `decode` devices under one context."""

    context: Context
    prefill: int
    decode: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValue:
    """Most that one group carries on at most n devices: `best[n]` = aggregated[x] + pairs[n - x].

    `split[n]` is that x.
    """

    best: FloatArray
    split: IntArray
    aggregated: RoleTable | None
    pairs: dict[int, Pair]
    pair_best: FloatArray

    def picks(self, tables: PoolTables, group: int, question: Question, num_devices: int) -> list[PoolPick]:
        """Return the pools behind `best[num_devices]`."""
        aggregated = int(self.split[num_devices])
        pools = self.aggregated.picks(aggregated) if self.aggregated is not None else []
        left = num_devices - aggregated
        while left > 0 and left not in self.pairs:
            left -= 1
        if left > 0:
            pools.extend(pair_picks(tables, (group, group), self.pairs[left], question))
        return pools

    def steps(self) -> IntArray:
        """Return 0 and the device counts at which the value rises."""
        rises = np.flatnonzero(np.diff(self.best) > 0.0) + 1
        return np.concatenate(([0], rises)).astype(np.intp)


def pair_picks(tables: PoolTables, groups: tuple[int, int], pair: Pair, question: Question) -> list[PoolPick]:
    """Return the pools of a pair with prefill and decode on two groups (or one)."""
    prefill = tables.table("prefill", pair.context, groups[0], question)
    decode = tables.table("decode", pair.context, groups[1], question)
    return prefill.picks(pair.prefill) + decode.picks(pair.decode)


def group_value(tables: PoolTables, group: int, question: Question) -> GroupValue:
    """Return what a group carries by devices, over all contexts of pairs inside it."""
    size = question.resources.num_devices[group]
    if question.budget.num_devices is not None:
        size = min(size, question.budget.num_devices)
    aggregated = None
    alone = np.zeros(size + 1)
    if "aggregated" in question.modes:
        aggregated = tables.table("aggregated", None, group, question)
        alone = aggregated.best
    pairs: dict[int, Pair] = {}
    if "disaggregated" in question.modes:
        for context in inner_contexts(tables.catalogue, group, question):
            if tables.out_of_time():
                break
            _merge_pairs(pairs, best_pairs(tables, (group, group), context, question, size))
    pair_best = np.zeros(size + 1)
    for total in range(1, size + 1):
        pair_best[total] = max(pair_best[total - 1], pairs[total].value if total in pairs else 0.0)
    pairs = {n: pair for n, pair in pairs.items() if pair.value > pair_best[n - 1]}
    best, split = _combine(alone, pair_best, exclusive=question.concurrency is not None)
    return GroupValue(best=best, split=split, aggregated=aggregated, pairs=pairs, pair_best=pair_best)


def best_pairs(
    tables: PoolTables, groups: tuple[int, int], context: Context, question: Question, size: int
) -> dict[int, Pair]:
    """Return the best pair for each total of devices: max over y + z = n of min(prefill[y], decode[z])."""
    prefill = tables.table("prefill", context, groups[0], question)
    decode = tables.table("decode", context, groups[1], question)
    limit = min(size, context.max_devices)
    ys, zs = prefill.steps(limit)[1:], decode.steps(limit)[1:]
    if not ys.size or not zs.size:
        return {}
    value = np.minimum(prefill.best[ys][:, None], decode.best[zs][None, :])
    if question.concurrency is not None:
        value = _requests_inside(tables, context, question, (prefill, ys), (decode, zs))
    total = ys[:, None] + zs[None, :]
    rows, cols = np.nonzero((total <= limit) & (value > 0.0))
    order = np.lexsort((cols, total[rows, cols], -value[rows, cols]))
    pairs: dict[int, Pair] = {}
    for at in order:
        row, col = rows[at], cols[at]
        n = int(total[row, col])
        if n not in pairs:
            pairs[n] = Pair(
                context=context, prefill=int(ys[row]), decode=int(zs[col]), value=float(value[row, col])
            )
    return pairs


def _merge_pairs(into: dict[int, Pair], new: dict[int, Pair]) -> None:
    for total, pair in new.items():
        if total not in into or pair.value > into[total].value * (1.0 + 1e-12):
            into[total] = pair


def _combine(alone: FloatArray, pairs: FloatArray, *, exclusive: bool) -> tuple[FloatArray, IntArray]:
    """Return max over x of alone[x] + pairs[n - x] for every n, and the x; `exclusive` allows one of both."""
    size = alone.size
    best, split = np.zeros(size), np.zeros(size, dtype=np.intp)
    for n in range(size):
        if exclusive:
            x = n if alone[n] >= pairs[n] else 0
            value = max(alone[n], pairs[n])
        else:
            sums = alone[: n + 1] + pairs[n::-1][: n + 1]
            x = int(np.argmax(sums))
            if alone[n] >= sums[x] * (1.0 - 1e-12):
                x = n
            value = float(sums[x])
        best[n], split[n] = value, x
    return best, split


def _requests_inside(
    tables: PoolTables,
    context: Context,
    question: Question,
    prefill: tuple[RoleTable, IntArray],
    decode: tuple[RoleTable, IntArray],
) -> FloatArray:
    """Return the requests that circulate in each pair at the rate of its slower half (Little's law)."""
    rates = np.minimum(prefill[0].best[prefill[1]][:, None], decode[0].best[decode[1]][None, :])
    shape = rates.shape
    ttft = _latency(tables, "prefill", context, prefill, np.broadcast_to(rates, shape), 0)
    step = _latency(tables, "decode", context, decode, np.broadcast_to(rates, shape), 1)
    del question
    return rates * (ttft + step * tables.catalogue.requests.mean_steps)


def _latency(
    tables: PoolTables,
    role: str,
    context: Context,
    side: tuple[RoleTable, IntArray],
    rates: FloatArray,
    axis: int,
) -> FloatArray:
    """Return TTFT (prefill) or step time (decode) of the single pool of each size at each pair's rate."""
    table, sizes = side
    pools = tables.pools(table.role, context)
    row_of = {offer: row for row, offer in enumerate(tables.catalogue.by_role(table.role))}
    rows = np.array([row_of[int(table.offer[n])] for n in sizes], dtype=np.intp)
    counts = table.replicas[sizes].astype(np.float64)
    expand = (slice(None), None) if axis == 0 else (None, slice(None))
    entries = Entries(
        shape=np.broadcast_to(rows[expand], rates.shape).ravel(),
        replicas=np.broadcast_to(counts[expand], rates.shape).ravel(),
    )
    position = np.maximum(position_at_rate(pools, entries, rates.ravel() * (1.0 - 1e-12)), 0.0)
    state = state_at(pools, entries, position)
    return (state.ttft_s if role == "prefill" else state.tpot_s).reshape(rates.shape)
