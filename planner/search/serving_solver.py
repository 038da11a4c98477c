"""Answers a question exactly: which pools, how many devices of each group, and why nothing is better.

Every way of spending the devices is covered: groups by themselves, and one pair that crosses from one
group to another. Partial choices are merged group by group; only choices that another beats in value
and in every resource are dropped, which cannot lose the optimum. The bound is therefore the value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from planner.ir.objective import Budget
from planner.ir.serving import Role
from planner.search.serving_contexts import cross_contexts
from planner.search.serving_groups import GroupValue, group_value
from planner.search.serving_pools import Context, PoolPick, PoolTables
from planner.search.serving_question import Question, Resources

IntArray = NDArray[np.intp]
SAME = 1e-9
_FILTER_ABOVE = 2000
_MAX_MERGE = 40_000_000
_BLOCK = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """The optimum: its pools, the objective, and the load it can carry.

    `capacity` is in requests per second (open loop) or requests inside (closed loop).
    """

    picks: tuple[PoolPick, ...]
    value: float
    bound: float
    capacity: float
    devices: tuple[int, ...]

    @property
    def num_devices(self) -> int:
        """Devices used."""
        return sum(self.devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Points:
    """Partial choices: resources used, value inside groups, halves of a crossing pair, and the way back."""

    devices: IntArray
    value: FloatArray
    prefill: FloatArray
    decode: FloatArray

    @property
    def total(self) -> FloatArray:
        """Value of a choice: what groups carry and the slower half of the pair."""
        return self.value + np.minimum(self.prefill, self.decode)

    def only(self, keep: NDArray[np.bool_] | IntArray) -> _Points:
        """Return a selection."""
        return _Points(
            devices=self.devices[keep],
            value=self.value[keep],
            prefill=self.prefill[keep],
            decode=self.decode[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Crossing:
    """A pair over two groups and the tables of its halves; None for choices without one."""

    context: Context
    prefill_group: int
    decode_group: int


def used_resources(devices: IntArray, resources: Resources) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return devices, USD per hour and watts of rows of device counts per group."""
    per_group = devices.astype(np.float64)
    usd = np.array([price or 0.0 for price in resources.usd_per_device_hour])
    return per_group.sum(axis=1), per_group @ usd, per_group @ np.array(resources.power_w_per_device)


def within(devices: IntArray, resources: Resources, budget: Budget) -> NDArray[np.bool_]:
    """Return which rows of device counts keep the budget."""
    count, usd, power = used_resources(devices, resources)
    fine = np.ones(count.size, dtype=np.bool_)
    for used, limit in ((count, budget.num_devices), (usd, budget.usd_per_hour), (power, budget.power_w)):
        if limit is not None:
            fine &= used <= limit * (1.0 + SAME)
    return fine


def solve(tables: PoolTables, question: Question) -> Solution | None:
    """Return the optimum of a capacity question, or None if no plan meets it.

    (The latency goals are answered by `serving_latency`.)
    """
    groups = range(len(question.resources.num_devices))
    values = [group_value(tables, group, question) for group in groups]
    found = _best(question, _merge_groups(question, values, None, tables), values, None, tables)
    if "disaggregated" not in question.modes or question.concurrency is not None:
        return found
    for prefill in groups:
        for decode in groups:
            if prefill == decode:
                continue
            for context in cross_contexts(tables.catalogue, prefill, decode, question):
                crossing = _Crossing(context=context, prefill_group=prefill, decode_group=decode)
                points = _merge_groups(question, values, crossing, tables)
                found = _better(question, found, _best(question, points, values, crossing, tables))
    return found


def demand_of(question: Question) -> float:
    """Return the load that a plan has to carry: requests per second, or requests inside."""
    if question.concurrency is not None:
        return float(question.concurrency)
    return question.rate_rps if question.rate_rps is not None else 0.0


def objective_values(
    question: Question, points_total: FloatArray, devices: IntArray, tokens: float
) -> FloatArray:
    """Return the objective of choices; `tokens` is the mean output length."""
    count, usd, power = used_resources(devices, question.resources)
    if question.goal == "max_throughput":
        return points_total * tokens
    if question.goal == "min_cost":
        return usd
    if question.goal == "min_power":
        return power
    if question.goal == "min_cost_per_token":
        rate = points_total if question.rate_rps is None else np.full(points_total.size, question.rate_rps)
        with np.errstate(divide="ignore"):
            return usd / (rate * tokens * 3600.0) * 1e6
    return count


def _best(
    question: Question,
    points: _Points,
    values: list[GroupValue],
    crossing: _Crossing | None,
    tables: PoolTables,
) -> Solution | None:
    total = points.total
    fine = within(points.devices, question.resources, question.budget) & (total > 0.0)
    fine &= total >= demand_of(question) * (1.0 - SAME)
    if not fine.any():
        return None
    points, total = points.only(fine), total[fine]
    objective = objective_values(
        question, total, points.devices, tables.catalogue.requests.mean_output_tokens
    )
    ranked = -objective if question.sense == "max" else objective
    limit = ranked.min() + SAME * abs(float(ranked.min()))
    ties = np.flatnonzero(ranked <= limit)
    chosen = ties[np.lexsort((-total[ties], points.devices[ties].sum(axis=1)))[0]]
    return Solution(
        picks=_picks(question, points, int(chosen), values, crossing, tables),
        value=float(objective[chosen]),
        bound=float(objective[chosen]),
        capacity=float(total[chosen]),
        devices=tuple(int(n) for n in points.devices[chosen]),
    )


def _better(question: Question, first: Solution | None, second: Solution | None) -> Solution | None:
    if first is None or second is None:
        return first or second
    sign = 1.0 if question.sense == "min" else -1.0
    key = (sign * second.value, second.num_devices)
    return second if key < (sign * first.value * (1.0 - sign * SAME), first.num_devices) else first


def _merge_groups(
    question: Question, values: list[GroupValue], crossing: _Crossing | None, tables: PoolTables
) -> _Points:
    merged: _Points | None = None
    for group, value in enumerate(values):
        points = _group_points(question, group, value, crossing, tables)
        merged = points if merged is None else _outer(question, merged, points)
    if merged is None:
        raise ValueError("a cluster without groups")
    return merged


def _group_points(
    question: Question, group: int, value: GroupValue, crossing: _Crossing | None, tables: PoolTables
) -> _Points:
    """Return the choices of one group: devices for itself and, if it takes part, for its half of the pair."""
    own = value.steps()
    half = np.zeros(1, dtype=np.intp)
    carried = np.full(1, np.inf)
    role = _role_in(crossing, group)
    if crossing is not None and role is not None:
        table = tables.table(role, crossing.context, group, question)
        half = table.steps()[1:]
        carried = table.best[half]
    size = value.best.size - 1
    rows, cols = np.nonzero(own[:, None] + half[None, :] <= size)
    devices = np.zeros((rows.size, len(question.resources.num_devices)), dtype=np.intp)
    devices[:, group] = own[rows] + half[cols]
    none = np.full(rows.size, np.inf if crossing is not None else 0.0)
    return _filtered(
        question,
        _Points(
            devices=devices,
            value=value.best[own[rows]],
            prefill=carried[cols] if role == "prefill" else none,
            decode=carried[cols] if role == "decode" else none,
        ),
    )


def _role_in(crossing: _Crossing | None, group: int) -> Role | None:
    if crossing is None:
        return None
    if group == crossing.prefill_group:
        return "prefill"
    return "decode" if group == crossing.decode_group else None


def _outer(question: Question, first: _Points, second: _Points) -> _Points:
    """Return every combination of two partial choices that keeps the budget, without dominated ones."""
    if first.value.size * second.value.size > _MAX_MERGE:
        raise ValueError("too many node groups for exhaustive merging")
    rows = np.repeat(np.arange(first.value.size), second.value.size)
    cols = np.tile(np.arange(second.value.size), first.value.size)
    points = _Points(
        devices=first.devices[rows] + second.devices[cols],
        value=first.value[rows] + second.value[cols],
        prefill=np.minimum(first.prefill[rows], second.prefill[cols]),
        decode=np.minimum(first.decode[rows], second.decode[cols]),
    )
    fine = within(points.devices, question.resources, question.budget)
    return _filtered(question, points.only(fine))


def _filtered(question: Question, points: _Points) -> _Points:
    """Drop choices that another beats or equals in every resource, in value and in both halves."""
    if points.value.size <= _FILTER_ABOVE:
        return points
    count, usd, power = used_resources(points.devices, question.resources)
    order = np.lexsort((-points.decode, -points.prefill, -points.value, power, usd, count))
    columns = [count, usd, power, -points.value, -points.prefill, -points.decode]
    return points.only(order[_front(np.stack(columns, axis=1)[order])])


def _front(keys: FloatArray) -> IntArray:
    """Return the rows that no other row is at least as small as in every column; rows come sorted."""
    kept = np.empty(0, dtype=np.intp)
    for start in range(0, keys.shape[0], _BLOCK):
        block = keys[start : start + _BLOCK]
        beaten = np.zeros(block.shape[0], dtype=np.bool_)
        for part in range(0, kept.size, _BLOCK):
            front = keys[kept[part : part + _BLOCK]]
            beaten |= (front[:, None, :] <= block[None, :, :]).all(axis=2).any(axis=0)
        for row in np.flatnonzero(~beaten):
            if not (block[:row][~beaten[:row]] <= block[row]).all(axis=1).any():
                kept = np.append(kept, start + row)
            else:
                beaten[row] = True
    return kept


def _picks(
    question: Question,
    points: _Points,
    chosen: int,
    values: list[GroupValue],
    crossing: _Crossing | None,
    tables: PoolTables,
) -> tuple[PoolPick, ...]:
    """Return the pools of a choice; how a group splits its devices is found again from its tables."""
    picks: list[PoolPick] = []
    own = [int(n) for n in points.devices[chosen]]
    for group in range(len(own)):
        role = _role_in(crossing, group)
        if crossing is None or role is None:
            continue
        table = tables.table(role, crossing.context, group, question)
        carried = float((points.prefill if role == "prefill" else points.decode)[chosen])
        size = int(np.searchsorted(table.best, np.float64(carried * (1.0 - SAME))))
        own[group] -= size
        picks.extend(table.picks(size))
    for group, value in enumerate(values):
        picks.extend(value.picks(tables, group, question, own[group]))
    return _merged(picks)


def _merged(picks: list[PoolPick]) -> tuple[PoolPick, ...]:
    """Return the picks with pools of the same shape joined: one queue is never worse than two."""
    joined: dict[tuple[str, int, Context | None], PoolPick] = {}
    for pick in picks:
        key = (pick.role, pick.offer, pick.context)
        before = joined[key].replicas if key in joined else 0
        joined[key] = replace(pick, replicas=pick.replicas + before)
    return tuple(joined.values())
