"""Re-planning a fleet after a loss: all traffic with the fewest starts, then the best value at these.

An integer program over the plan's own shapes finds both. Where a share of the value is named that may be
given up, and for goals that maximise (whose demand is no more than a wish), the value comes first and the
starts second; models that lost nothing then stay as they are unless there is no room without them. What
stays keeps its devices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from ortools.math_opt.python import mathopt

from planner.ir.candidates import ReplicaPlacement
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_answer import ModelAnswer, answer_of, items_of
from planner.search.fleet_columns import Column, ModelSupply
from planner.search.fleet_master import Chosen, Master
from planner.search.fleet_milp import ProgramLevel, ShapeKey, add_level, choices_of, shape_key
from planner.search.fleet_place import Grounds, Item, device_name, place_on
from planner.search.fleet_question import master_of
from planner.search.fleet_room import Room, rooms_of
from planner.search.mip import Expression, at_least, at_most, solve_with_highs, total

_SECONDS = 20.0
_SECONDS_FOR_VALUE = 4.0
"""Time to look for a better value at the fewest starts; an answer is known by then."""
_EXACT = 1e-7
_GAP = 2e-3
"""How close to the best value an answer of fewest starts is."""
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
    tolerance: float | None,
) -> Replanned | None:
    """Return the re-planned fleet, None if what is left cannot carry the traffic.

    `hit` are the models that lost replicas; `tolerance` is the share of the value that may be given up to
    start less, None all of it.
    """
    rooms = rooms_of(problem.cluster.groups, problem.payload)
    everyone = frozenset(range(len(problem.payload.models)))
    factor = max((level.factor for level in problem.payload.levels), default=1.0)
    master = master_of(problem, supplies, rooms, factor=factor)
    for affected in dict.fromkeys((hit, everyone)):
        change = _Change(
            master=master,
            kept=Counter(one.key for one in standing),
            affected=affected,
            everyone=everyone,
            tolerance=tolerance,
        )
        found = _attempt(problem, supplies, (rooms, standing), change)
        if found is not None:
            return replace(found, whole_fleet=affected == everyone)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """What a re-plan may change: the models `affected`, beside the replicas that are `kept`."""

    master: Master
    kept: Mapping[ShapeKey, int]
    affected: frozenset[int]
    everyone: frozenset[int]
    tolerance: float | None

    @property
    def starts_first(self) -> bool:
        """Whether the fewest starts count before the value."""
        return self.tolerance is None and self.master.minimises


def _attempt(
    problem: Problem[FleetProblem],
    supplies: Sequence[ModelSupply],
    ground: tuple[tuple[Room, ...], Sequence[Standing]],
    change: _Change,
) -> Replanned | None:
    rooms, standing = ground
    master = change.master
    solved = _by_starts(change) if change.starts_first else _by_value(change)
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


@dataclass(slots=True, kw_only=True)
class _Program:
    """The integer program of a change: all models, with what each would have to start."""

    model: mathopt.Model
    level: ProgramLevel
    starts: mathopt.LinearExpression

    @staticmethod
    def of(change: _Change, affected: frozenset[int]) -> _Program:
        """Fix the models that are not affected to what they run, and count the starts of the others."""
        model = mathopt.Model()
        level = add_level(model, change.master)
        starts: list[mathopt.Variable] = []
        shapes: dict[ShapeKey, list[tuple[Column, mathopt.Variable]]] = {}
        for column, count in level.used():
            shapes.setdefault(shape_key(column), []).append((column, count))
        for key, pairs in shapes.items():
            kept = float(change.kept.get(key, 0))
            running: list[Expression] = [float(c.replicas) * x for c, x in pairs]
            if key[0] not in affected:
                at_least(model, running, kept)
                at_most(model, running, kept)
                continue
            started = model.add_variable(lb=0.0)
            at_least(model, [started, *(-1.0 * term for term in running)], -kept)
            starts.append(started)
        return _Program(model=model, level=level, starts=total(starts))


Solved = tuple[tuple[Chosen | None, ...], int]


def _by_starts(change: _Change) -> Solved | None:
    """Return the choices of fewest starts and, at these, of best value; and how many starts it takes.

    The fewest starts of all models together bound those of the affected ones. Where these alone need
    more, the models that change in that answer take part as well.
    """
    found = _least_starts(change)
    if found is None:
        return None
    least, changing, any_choices = found
    for affected in dict.fromkeys((change.affected, change.affected | changing)):
        program = _Program.of(change, affected)
        at_most(program.model, [program.starts], least + _EXACT)
        program.model.minimize(program.level.cost)
        result = solve_with_highs(program.model, _SECONDS_FOR_VALUE, _GAP)
        if result.has_primal_feasible_solution():
            return choices_of(program.level, result, None), least
    return any_choices, least


def _least_starts(change: _Change) -> tuple[int, frozenset[int], tuple[Chosen | None, ...]] | None:
    """Return the fewest starts that all models together need, and an answer with the models it changes."""
    program = _Program.of(change, change.everyone)
    program.model.minimize(program.starts)
    result = solve_with_highs(program.model, _SECONDS, 1e-6, 1.0)
    if not result.has_primal_feasible_solution():
        return None
    now: Counter[ShapeKey] = Counter()
    for column, count in program.level.used():
        now[shape_key(column)] += column.replicas * round(result.variable_values(count))
    changing = {key[0] for key in {*now, *change.kept} if now[key] != change.kept.get(key, 0)}
    choices = choices_of(program.level, result, None)
    return round(result.objective_value()), frozenset(changing), choices


def _by_value(change: _Change) -> Solved | None:
    """Return the choices of best value and, within the tolerance, of fewest starts; and a bound on these."""
    program = _Program.of(change, change.affected)
    minimises = change.master.minimises
    goal = program.level.cost if minimises else program.level.gain
    if minimises:
        program.model.minimize(goal)
    else:
        program.model.maximize(goal)
    first = solve_with_highs(program.model, _SECONDS, 1e-6)
    if not first.has_primal_feasible_solution():
        return None
    best = first.objective_value()
    slack = ((change.tolerance or 0.0) + _EXACT) * abs(best)
    if minimises:
        at_most(program.model, [goal], best + slack)
    else:
        at_least(program.model, [goal], best - slack)
    program.model.minimize(program.starts)
    second = solve_with_highs(program.model, _SECONDS, 1e-6, 1.0)
    result = second if second.has_primal_feasible_solution() else first
    return choices_of(program.level, result, None), _whole(second.dual_bound())


def _whole(bound: float) -> int:
    """Return the least whole number of starts that a bound allows."""
    return max(0, ceil(bound - 1e-6))


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
