"""Re-planning a fleet after a loss: first what must be served at the best value, then the fewest starts.

Models that lost nothing stay as they are. For the others an integer program over the plan's own shapes
looks for the best value on what is free, then for the fewest replicas that have to be started at (almost)
that value. What stays keeps its devices. If there is no room, every model takes part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ortools.math_opt.python import mathopt

from planner.ir.candidates import ReplicaPlacement
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_answer import ModelAnswer, answer_of, items_of
from planner.search.fleet_columns import Column, ModelSupply
from planner.search.fleet_master import Chosen, Master
from planner.search.fleet_milp import ShapeKey, add_level, choices_of, shape_key
from planner.search.fleet_place import Grounds, Item, device_name, place_on
from planner.search.fleet_question import master_of
from planner.search.fleet_room import Room, rooms_of
from planner.search.mip import Expression, at_least, at_most, solve_with_highs, total

_SECONDS = 20.0
_EXACT = 1e-7
Seats = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A replica that survives: its shape and the devices it sits on."""

    key: ShapeKey
    devices: Seats


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """The new answers of all models, where every replica sits, the value and how many were started.

    `least_starts` is a lower bound of the starts that any answer of this value needs.
    """

    answers: tuple[ModelAnswer, ...]
    placement: tuple[ReplicaPlacement, ...]
    value: float
    num_started: int
    least_starts: int
    whole_fleet: bool


def replan_fleet(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    standing: Sequence[Standing],
    hit: frozenset[int],
    tolerance: float,
) -> Replanned | None:
    """Return the re-planned fleet, None if what is left cannot carry the traffic.

    `hit` are the models that lost replicas; `tolerance` is the share of the value that may be given up to
    start less.
    """
    rooms = rooms_of(problem.cluster.groups, problem.payload)
    everyone = frozenset(range(len(problem.payload.models)))
    for affected in dict.fromkeys((hit, everyone)):
        found = _attempt(problem, supplies, (rooms, standing), affected, tolerance)
        if found is not None:
            return replace(found, whole_fleet=affected == everyone)
    return None


def _attempt(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    ground: tuple[tuple[Room, ...], Sequence[Standing]],
    affected: frozenset[int],
    tolerance: float,
) -> Replanned | None:
    rooms, standing = ground
    kept = Counter(one.key for one in standing)
    factor = max((level.factor for level in problem.payload.levels), default=1.0)
    master = master_of(problem, supplies, rooms, factor=factor)
    solved = _fewest_starts(master, kept, affected, tolerance)
    if solved is None:
        return None
    choices, least = solved
    answers = tuple(
        answer_of(model, supply, chosen, problem.cluster.groups)
        for model, supply, chosen in zip(problem.payload.models, supplies, choices, strict=True)
    )
    placed = _placed(items_of(problem, answers), answers, rooms, standing)
    if placed is None:
        return None
    placement, started = placed
    return Replanned(
        answers=answers,
        placement=placement,
        value=_value(problem, master, answers),
        num_started=started,
        least_starts=least,
        whole_fleet=False,
    )


def _value(problem: Problem[FleetProblem], master: Master, answers: Sequence[ModelAnswer]) -> float:
    if master.goal == "max_goodput":
        return sum(
            demand.model.priority * demand.tokens * answer.served_rps
            for demand, answer in zip(master.demands, answers, strict=True)
        )
    if master.goal == "max_load":
        loads = [
            answer.served_rps / demand.rate_rps
            for demand, answer in zip(master.demands, answers, strict=True)
            if demand.rate_rps > 0.0
        ]
        return min(loads, default=0.0)
    del problem
    return sum(
        master.unit_cost[column.group] * pool.num_devices
        for answer in answers
        for pool, column in zip(answer.pools, answer.columns, strict=True)
    )


def _fewest_starts(
    master: Master, kept: Mapping[ShapeKey, int], affected: frozenset[int], tolerance: float
) -> tuple[tuple[Chosen | None, ...], int] | None:
    """Return the choices of best value and, within the tolerance, of fewest starts; and a bound on these."""
    model = mathopt.Model()
    level = add_level(model, master)
    starts: list[mathopt.Variable] = []
    shapes: dict[ShapeKey, list[tuple[Column, mathopt.Variable]]] = {}
    for column, count in level.used():
        shapes.setdefault(shape_key(column), []).append((column, count))
    for key, pairs in shapes.items():
        running: list[Expression] = [float(c.replicas) * x for c, x in pairs]
        if key[0] not in affected:
            at_least(model, running, float(kept.get(key, 0)))
            at_most(model, running, float(kept.get(key, 0)))
            continue
        started = model.add_variable(lb=0.0)
        at_least(model, [started, *(-1.0 * term for term in running)], -float(kept.get(key, 0)))
        starts.append(started)
    goal = level.cost if master.minimises else level.gain
    if master.minimises:
        model.minimize(goal)
    else:
        model.maximize(goal)
    first = solve_with_highs(model, _SECONDS, 1e-6)
    if not first.has_primal_feasible_solution():
        return None
    best = first.objective_value()
    slack = (tolerance + _EXACT) * abs(best)
    if master.minimises:
        at_most(model, [goal], best + slack)
    else:
        at_least(model, [goal], best - slack)
    model.minimize(total(starts))
    second = solve_with_highs(model, _SECONDS, 1e-6, 1.0)
    result = second if second.has_primal_feasible_solution() else first
    return choices_of(level, result, None), max(0, round(second.dual_bound() - 1e-6 + 0.4999))


def _placed(
    items: Sequence[Item],
    answers: Sequence[ModelAnswer],
    rooms: Sequence[Room],
    standing: Sequence[Standing],
) -> tuple[tuple[ReplicaPlacement, ...], int] | None:
    """Keep what may stay where it is and place the rest; give up small survivors where slots clash."""
    columns = {p.name: c for a in answers for p, c in zip(a.pools, a.columns, strict=True)}
    seats: dict[ShapeKey, list[Seats]] = {}
    for one in standing:
        seats.setdefault(one.key, []).append(one.devices)
    kept: dict[int, Seats] = {}
    for at, item in enumerate(items):
        free = seats.get(shape_key(columns[item.pool]))
        if free:
            kept[at] = free.pop(0)
    givable = sorted(kept, key=lambda at: (items[at].num_devices, -at))
    while True:
        found = _place_rest(items, kept, rooms)
        if found is not None:
            return found, len(items) - len(kept)
        if not givable:
            return None
        for at in givable[: max(1, len(givable) // 4)]:
            del kept[at]
        givable = givable[max(1, len(givable) // 4) :]


def _place_rest(
    items: Sequence[Item], kept: Mapping[int, Seats], rooms: Sequence[Room]
) -> tuple[ReplicaPlacement, ...] | None:
    grounds = [Grounds(room=room) for room in rooms]
    names = [
        {device_name(room.group, device): device for devices in room.usable for device in devices}
        for room in rooms
    ]
    for at, devices in kept.items():
        item = items[at]
        numbers = [names[item.group][device] for device in devices]
        size = rooms[item.group].group.domain_size
        for domain in sorted({number // size for number in numbers}):
            grounds[item.group].occupy(domain, [n for n in numbers if n // size == domain])
        grounds[item.group].settle(item, numbers)
    rest = [at for at in range(len(items)) if at not in kept]
    placed = place_on(grounds, [items[at] for at in rest])
    if placed is None:
        return None
    fresh = dict(zip(rest, placed, strict=True))
    return tuple(
        fresh[at] if at in fresh else ReplicaPlacement(pool=item.pool, replica=item.replica, devices=kept[at])
        for at, item in enumerate(items)
    )
