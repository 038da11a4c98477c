"""Answers a question exactly: which pools, and how many devices of each group.

Every way of spending the devices is covered. The tables of one group hold its best value for every number
of devices, so the bound is the value; several groups are left to an integer program with its own bound.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from planner.ir.objective import Budget
from planner.search.serving_groups import GroupValue, group_value
from planner.search.serving_mix import solve_mix
from planner.search.serving_pools import Context, PoolPick, PoolTables
from planner.search.serving_question import Question, Resources

IntArray = NDArray[np.intp]
SAME = 1e-9
_FILTER_ABOVE = 2000
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
    """Partial choices: devices per group, and what they carry."""

    devices: IntArray
    value: FloatArray

    def only(self, keep: NDArray[np.bool_] | IntArray) -> _Points:
        """Return a selection."""
        return _Points(devices=self.devices[keep], value=self.value[keep])


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

    (The latency goals are answered by `serving_latency`.) One group, and a closed loop, is answered from
    tables by devices; several groups are an integer program.
    """
    if len(question.resources.num_devices) > 1 and question.concurrency is None:
        return _mixed(tables, question)
    groups = range(len(question.resources.num_devices))
    values = [group_value(tables, group, question) for group in groups]
    return _best(question, _merge_groups(question, values), values, tables)


def _mixed(tables: PoolTables, question: Question) -> Solution | None:
    mix = solve_mix(tables, question)
    if mix is None:
        return None
    tokens = tables.catalogue.requests.mean_output_tokens
    devices = np.array([mix.devices], dtype=np.intp)
    value = float(objective_values(question, np.array([mix.total]), devices, tokens)[0])
    fine = bool(within(devices, question.resources, question.budget)[0])
    if not fine or mix.total < demand_of(question) * (1.0 - SAME):
        return None
    unit = _in_unit_of_objective(question, tokens)
    return Solution(
        picks=merged(mix.picks()),
        value=value,
        bound=value if mix.proved else mix.bound * unit,
        capacity=mix.total,
        devices=mix.devices,
    )


def _in_unit_of_objective(question: Question, tokens: float) -> float:
    """Return what turns the bound of a mix (rate, or price) into that of the objective."""
    if question.goal == "max_throughput":
        return tokens
    if question.goal == "min_cost_per_token":
        return 1e6 / (tokens * 3600.0 * (question.rate_rps or 1.0))
    return 1.0


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
    question: Question, points: _Points, values: list[GroupValue], tables: PoolTables
) -> Solution | None:
    fine = within(points.devices, question.resources, question.budget) & (points.value > 0.0)
    fine &= points.value >= demand_of(question) * (1.0 - SAME)
    if not fine.any():
        return None
    points = points.only(fine)
    tokens = tables.catalogue.requests.mean_output_tokens
    objective = objective_values(question, points.value, points.devices, tokens)
    ranked = -objective if question.sense == "max" else objective
    limit = ranked.min() + SAME * abs(float(ranked.min()))
    ties = np.flatnonzero(ranked <= limit)
    chosen = int(ties[np.lexsort((-points.value[ties], points.devices[ties].sum(axis=1)))[0]])
    own = [int(n) for n in points.devices[chosen]]
    picks = [
        pick
        for group, value in enumerate(values)
        for pick in value.picks(tables, group, question, own[group])
    ]
    return Solution(
        picks=merged(picks),
        value=float(objective[chosen]),
        bound=float(objective[chosen]),
        capacity=float(points.value[chosen]),
        devices=tuple(own),
    )


def _merge_groups(question: Question, values: list[GroupValue]) -> _Points:
    count = len(values)
    points = _Points(devices=np.zeros((1, count), dtype=np.intp), value=np.zeros(1))
    for group, value in enumerate(values):
        steps = value.steps()
        devices = np.zeros((steps.size, count), dtype=np.intp)
        devices[:, group] = steps
        points = _outer(question, points, _Points(devices=devices, value=value.best[steps]))
    return points


def _outer(question: Question, first: _Points, second: _Points) -> _Points:
    """Return every combination of two partial choices that keeps the budget, without dominated ones."""
    rows = np.repeat(np.arange(first.value.size), second.value.size)
    cols = np.tile(np.arange(second.value.size), first.value.size)
    points = _Points(
        devices=first.devices[rows] + second.devices[cols],
        value=first.value[rows] + second.value[cols],
    )
    return _filtered(question, points.only(within(points.devices, question.resources, question.budget)))


def _filtered(question: Question, points: _Points) -> _Points:
    """Drop choices that another beats or equals in every resource and in value."""
    if points.value.size <= _FILTER_ABOVE:
        return points
    count, usd, power = used_resources(points.devices, question.resources)
    order = np.lexsort((-points.value, power, usd, count))
    columns = [count, usd, power, -points.value]
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


def merged(picks: list[PoolPick]) -> tuple[PoolPick, ...]:
    """Return the picks with pools of the same shape joined.

    The tables have weighed the joined pool already, so it carries what its parts do.
    """
    joined: dict[tuple[str, int, Context | None], PoolPick] = {}
    for pick in picks:
        key = (pick.role, pick.offer, pick.context)
        before = joined[key].replicas if key in joined else 0
        joined[key] = replace(pick, replicas=pick.replicas + before)
    return tuple(joined.values())
