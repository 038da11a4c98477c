"""Runners-up of a fleet: one model served in another way, beside all others as they are.

The devices of the others are taken, so an answer is a plan of its own; another way that would be cheap
only if the others moved is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from time import monotonic

from planner.ir.candidates import AlternativeChoice
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_answer import ModelAnswer, answer_of
from planner.search.fleet_columns import ModelSupply
from planner.search.fleet_levels import solve_alone
from planner.search.fleet_master import Chosen, Demand, Master, Mode, Work

_SECONDS = 2.0
"""Time for one runner-up."""
_MOST_SECONDS = 8.0
_GAP = 1e-4
_WAYS = {"inside": "by prefill and decode on one group", "across": "by prefill and decode on any groups"}


def fleet_alternatives(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    master: Master,
    choices: Sequence[Chosen | None],
    value: float,
) -> tuple[AlternativeChoice, ...]:
    """Return the nearest runners-up, those that cannot be last; what cannot be among them is not solved."""
    end_s = monotonic() + _MOST_SECONDS
    asked: list[tuple[float, int, str, Chosen, Demand]] = []
    for index, chosen in enumerate(choices):
        if chosen is not None and any(chosen.counts):
            rest = value - _cost(master, chosen)
            for label, modes in _other_ways(master, index, chosen):
                demand = replace(master.demands[index], modes=modes)
                name = f"{problem.payload.models[index].name} {label}"
                asked.append((rest + _at_least(master, demand), index, name, chosen, demand))
    asked.sort(key=lambda one: one[0])
    found: list[AlternativeChoice] = []
    values: list[float] = []
    seen: set[tuple[int, object]] = set()
    for least, index, name, chosen, demand in asked:
        enough = len(values) >= problem.options.num_alternatives
        if monotonic() > end_s or (enough and least > sorted(values)[problem.options.num_alternatives - 1]):
            break
        other = _beside(master, choices, index, demand)
        if other is None:
            found.append(_none(name))
            continue
        total = value - _cost(master, chosen) + _cost(master, other)
        if total >= value * (1.0 - 1e-9) and (index, other.counts) not in seen:
            seen.add((index, other.counts))
            values.append(total)
            answer = answer_of(problem.payload.models[index], supplies[index], other, problem.cluster.groups)
            found.append(_choice(problem, name, answer, (value, total)))
    found.sort(key=lambda one: (one.relative is None, one.relative or 0.0, one.label))
    return tuple(found[: problem.options.num_alternatives])


def simplest(master: Master, choices: Sequence[Chosen | None]) -> tuple[Chosen | None, ...]:
    """Return the choices with whole replicas in place of prefill and decode wherever they cost no more."""
    found = list(choices)
    for index, chosen in enumerate(choices):
        if chosen is None or len(chosen.counts) < 2:
            continue
        demand = master.demands[index]
        whole = replace(demand, modes=tuple(mode for mode in demand.modes if len(mode.halves) == 1))
        most = _cost(master, chosen) * (1.0 + 1e-9)
        if _at_least(master, whole) > most:
            continue
        other = _beside(master, found, index, whole)
        if other is not None and _cost(master, other) <= most:
            found[index] = other
    return tuple(found)


def _at_least(master: Master, demand: Demand) -> float:
    """Return a lower bound of the cost of a demand: its rate at the best ratio of cost to capacity."""
    return min(
        (
            sum(
                demand.rate_rps
                * min(master.unit_cost[c.group] * c.num_devices / c.capacity_rps for c in half)
                for half in mode.halves
            )
            for mode in demand.modes
        ),
        default=float("inf"),
    )


def _other_ways(master: Master, index: int, chosen: Chosen) -> Iterator[tuple[str, tuple[Mode, ...]]]:
    """Yield the other modes of a model, and its modes without each kind of device that it uses."""
    modes = master.demands[index].modes
    for way in dict.fromkeys(_way(mode) for mode in modes):
        if way != _way(chosen.mode):
            own = tuple(mode for mode in modes if _way(mode) == way)
            yield _WAYS.get(way, "by whole replicas"), own
    groups = [room.group for room in master.rooms]
    used = {groups[column.group].device.name for half in chosen.counts for column, _ in half}
    for kind in sorted(used):
        yield (
            f"without {kind}",
            tuple(_without(modes, {i for i, g in enumerate(groups) if g.device.name == kind})),
        )


def _way(mode: Mode) -> str:
    return mode.name.partition(" ")[0].rstrip(",")


def _without(modes: Sequence[Mode], groups: set[int]) -> Iterator[Mode]:
    for mode in modes:
        halves = tuple(tuple(c for c in half if c.group not in groups) for half in mode.halves)
        if all(halves):
            yield replace(mode, halves=halves)


def _beside(master: Master, choices: Sequence[Chosen | None], index: int, demand: Demand) -> Chosen | None:
    """Return the best choice of one demand on what the other models leave, None if there is none."""
    if not demand.modes:
        return None
    taken = [0] * len(master.rooms)
    for at, chosen in enumerate(choices):
        if at != index and chosen is not None:
            for half in chosen.counts:
                for column, count in half:
                    taken[column.group] += column.num_devices * count
    rows = tuple(
        replace(row, limit=row.limit - sum(w * n for w, n in zip(row.weights, taken, strict=True)))
        for row in master.rows
    )
    alone = replace(master, demands=(demand,), rows=rows)
    answer = solve_alone(alone, monotonic() + _SECONDS, _GAP, Work())
    return answer.choices[0] if answer.choices else None


def _cost(master: Master, chosen: Chosen) -> float:
    return sum(
        master.unit_cost[column.group] * column.num_devices * count
        for half in chosen.counts
        for column, count in half
    )


def _none(label: str) -> AlternativeChoice:
    return AlternativeChoice(
        label=label,
        summary=f"{label}: none",
        objective_value=None,
        relative=None,
        tie=False,
        pools=(),
        reason="no such answer beside the other models",
    )


def _choice(
    problem: Problem[FleetProblem], label: str, answer: ModelAnswer, values: tuple[float, float]
) -> AlternativeChoice:
    plan, total = values
    worse = (total - plan) / max(abs(plan), 1e-300)
    replicas: Counter[str] = Counter()
    for pool in answer.pools:
        replicas[f"{pool.role} on {pool.node_group}"] += pool.replicas
    pools = ", ".join(f"{count} x {where}" for where, count in replicas.items())
    return AlternativeChoice(
        label=label,
        summary=f"{label}: {pools}",
        objective_value=total,
        relative=worse,
        tie=worse <= problem.options.tie_tolerance,
        pools=answer.pools,
    )
