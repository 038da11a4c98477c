"""The master problem as one integer program: every rule and goal, for one level of traffic or several.

Per level: x columns (whole), one mode per model (binary), the rate served.

- half: sum of capacities x - what a failure takes >= rate served in the mode
- mode: rate served in a mode <= demand x mode;  sum of modes = 1
- power: slots of a group <= those of free nodes + domains of each pattern x its slots (shared caps)
- rows: devices of a group, budgets;  slots: sizes above one device that a room cannot give freely
- failure: loss >= lost domains x replicas per domain x loss of a column that is used
- levels: starts >= replicas of a shape now - replicas before, around the day
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

from ortools.math_opt.python import mathopt

from planner.ir.fleet import FaultTolerance
from planner.search.fleet_columns import Column
from planner.search.fleet_master import Chosen, Demand, Master, MasterSolution, Mode
from planner.search.fleet_merge import joined
from planner.search.fleet_power_program import choose_patterns, slots_given
from planner.search.mip import Expression, at_least, at_most, exactly, solve_with_highs, total

METHOD = "integer program over columns (HiGHS)"
ShapeKey = tuple[int, str, int, int, int, bool]


def shape_key(column: Column) -> ShapeKey:
    """Return what makes two columns replicas of the same shape for the same use."""
    return (column.model, column.role, column.group, column.offer, column.split, column.crosses)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """What a start costs: `hours` in the day of each level, and `start_hours` that a replica takes."""

    hours: tuple[float, ...]
    start_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long and how far to search."""

    seconds: float
    gap: float = 1e-6


@dataclass(slots=True, kw_only=True)
class _ModeVariables:
    """Variables of one mode of one model."""

    mode: Mode
    taken: mathopt.Variable
    served: mathopt.Variable
    columns: list[list[tuple[Column, mathopt.Variable]]] = field(
        default_factory=list[list[tuple[Column, mathopt.Variable]]]
    )


@dataclass(slots=True, kw_only=True)
class ProgramLevel:
    """Variables of one level."""

    master: Master
    models: list[list[_ModeVariables]] = field(default_factory=list[list[_ModeVariables]])
    cost: mathopt.LinearExpression = field(default_factory=mathopt.LinearExpression)
    gain: mathopt.LinearExpression = field(default_factory=mathopt.LinearExpression)

    def used(self) -> list[tuple[Column, mathopt.Variable]]:
        """Return every column with its variable."""
        return [
            pair
            for modes in self.models
            for variables in modes
            for half in variables.columns
            for pair in half
        ]


def solve_milp(
    masters: Sequence[Master], effort: Effort, transitions: Transitions | None = None
) -> list[MasterSolution]:
    """Return one answer per level; all share the value and bound of the mean over the day."""
    model = mathopt.Model()
    levels = [add_level(model, master) for master in masters]
    first = masters[0]
    if not first.minimises:
        model.maximize(levels[0].gain)
    elif transitions is None:
        model.minimize(levels[0].cost)
    else:
        day = sum(transitions.hours)
        mean = [share / day * level.cost for share, level in zip(transitions.hours, levels, strict=True)]
        starts = _starts(model, levels, transitions.start_hours / day)
        model.minimize(total([*mean, *starts]))
    result = solve_with_highs(model, effort.seconds, effort.gap)
    if not result.has_primal_feasible_solution():
        proved = result.termination.reason == mathopt.TerminationReason.INFEASIBLE
        status = "infeasible" if proved else "nothing_found"
        return [MasterSolution(status=status, method=METHOD) for _ in levels]
    value, bound = result.objective_value(), result.dual_bound()
    gap = abs(value - bound) / max(abs(value), 1e-12)
    return [
        MasterSolution(
            status="optimal" if gap <= 1e-6 else "feasible",
            choices=choices_of(level, result, value if first.goal == "max_load" else None),
            value=value,
            bound=bound,
            method=METHOD,
        )
        for level in levels
    ]


def add_level(model: mathopt.Model, master: Master) -> ProgramLevel:
    """Add the variables and rows of one level of traffic."""
    level = ProgramLevel(master=master)
    load = model.add_variable(lb=0.0) if master.goal == "max_load" else None
    gains: list[Expression] = []
    for demand in master.demands:
        modes = [_add_mode(model, master, demand, mode) for mode in demand.modes]
        level.models.append(modes)
        if not modes:
            continue
        exactly(model, [mode.taken for mode in modes], 1.0)
        served = [mode.served for mode in modes]
        at_least(model, served, _must_serve(master, demand))
        if load is not None and demand.rate_rps > 0.0:
            at_least(model, [*served, -demand.rate_rps * load])
        gains.append(demand.model.priority * demand.tokens * total(served))
    used = level.used()
    for row in master.rows:
        terms = [row.weights[c.group] * c.num_devices * x for c, x in used if row.weights[c.group]]
        if terms:
            at_most(model, terms, row.limit)
    if master.power.classes:
        _power_rows(model, master, used)
    _slot_rows(model, master, used)
    costs = [master.unit_cost[c.group] * c.num_devices * x for c, x in used]
    level.cost = total(costs)
    level.gain = total(gains if load is None else [load])
    return level


def _must_serve(master: Master, demand: Demand) -> float:
    """Return the rate that has to be served: all of it where resources are minimised."""
    if master.minimises:
        return demand.rate_rps
    return 0.0 if master.goal == "max_load" else demand.model.min_share * demand.rate_rps


def _add_mode(model: mathopt.Model, master: Master, demand: Demand, mode: Mode) -> _ModeVariables:
    most = demand.rate_rps if master.goal != "max_load" else _most(master, mode)
    found = _ModeVariables(
        mode=mode, taken=model.add_binary_variable(), served=model.add_variable(lb=0.0, ub=most)
    )
    at_most(model, [found.served, -most * found.taken])
    for half in mode.halves:
        pairs = [(c, model.add_integer_variable(lb=0.0, ub=float(_at_most(master, c)))) for c in half]
        found.columns.append(pairs)
        carried: list[Expression] = [c.capacity_rps * x for c, x in pairs]
        if demand.model.tolerance is not None:
            lost = _loss(model, master, demand, pairs)
            at_least(model, [*carried, -1.0 * lost, -1.0 * found.served])
            _spread(model, demand, demand.model.tolerance, pairs)
        else:
            at_least(model, [*carried, -1.0 * found.served])
        if demand.model.min_replicas:
            kept = -float(demand.model.min_replicas) * found.taken
            at_least(model, [*(float(c.replicas) * x for c, x in pairs), kept])
    return found


def _most(master: Master, mode: Mode) -> float:
    """Return more than a mode can carry on all devices."""
    return min(
        sum(
            max((c.capacity_rps / c.num_devices for c in half if c.group == g), default=0.0)
            * room.num_devices
            for g, room in enumerate(master.rooms)
        )
        for half in mode.halves
    )


def _at_most(master: Master, column: Column) -> int:
    return master.rooms[column.group].num_devices // column.num_devices


def _enough(master: Master, demand: Demand, column: Column, need_rps: float) -> int:
    """Return how many of a column serve a demand alone: no more of them are ever needed for less cost."""
    if not master.minimises:
        return _at_most(master, column)
    return max(ceil(need_rps / column.capacity_rps), ceil(demand.model.min_replicas / column.replicas))


def _loss(
    model: mathopt.Model,
    master: Master,
    demand: Demand,
    pairs: Sequence[tuple[Column, mathopt.Variable]],
) -> mathopt.LinearExpression:
    """Return what the loss of `num_lost` domains takes from one half.

    The levels of loss rise: level j is reached if any column of that loss or more is used, so that the
    loss is the sum of the steps between the levels reached.
    """
    tolerance = demand.model.tolerance
    assert tolerance is not None
    levels = sorted({column.loss_rps for column, _ in pairs})
    domains = float(tolerance.num_lost * tolerance.most_per_domain)
    need_rps = demand.rate_rps + domains * max(levels, default=0.0)
    steps: list[Expression] = []
    reached: mathopt.Variable | None = None
    for below, level in zip([0.0, *levels], levels, strict=False):
        before, reached = reached, model.add_binary_variable()
        if before is not None:
            at_most(model, [reached, -1.0 * before])
        for column, count in pairs:
            if column.loss_rps == level:
                most = min(_at_most(master, column), _enough(master, demand, column, need_rps))
                at_most(model, [count, -float(most) * reached])
        steps.append(domains * (level - below) * reached)
    return total(steps)


def _spread(
    model: mathopt.Model,
    demand: Demand,
    tolerance: FaultTolerance,
    pairs: Sequence[tuple[Column, mathopt.Variable]],
) -> None:
    """Keep the replicas of a half within what its failure domains may hold."""
    for group, cells in enumerate(demand.cells):
        own = [float(c.replicas) * x for c, x in pairs if c.group == group]
        if own:
            at_most(model, own, float(tolerance.most_per_domain * cells))
    for groups, cells in demand.joint_cells:
        own = [float(c.replicas) * x for c, x in pairs if c.group in groups]
        if own:
            at_most(model, own, float(tolerance.most_per_domain * cells))


def _slot_rows(model: mathopt.Model, master: Master, used: Sequence[tuple[Column, mathopt.Variable]]) -> None:
    """Add, per group, the slot sizes that do not follow from the number of devices."""
    for index, room in enumerate(master.rooms):
        own = [(c, x) for c, x in used if c.group == index]
        sizes = {unit for c, _ in own for unit in c.units}
        for size, held in room.binding_sizes(sizes).items():
            terms = [
                c.replicas * sum(unit for unit in c.units if unit >= size) * x
                for c, x in own
                if any(unit >= size for unit in c.units)
            ]
            if terms:
                at_most(model, terms, float(held))


def _power_rows(
    model: mathopt.Model, master: Master, used: Sequence[tuple[Column, mathopt.Variable]]
) -> None:
    """Keep every slot size of every group within free nodes and what shared power domains run."""
    shares = choose_patterns(model, master.power)
    for index in range(len(master.rooms)):
        own = [(c, x) for c, x in used if c.group == index]
        for size in sorted({1, *(unit for c, _ in own for unit in c.units)} if own else ()):
            given = slots_given(master.power, shares, index, size)
            terms = [c.replicas * sum(unit for unit in c.units if unit >= size) * x for c, x in own]
            at_most(model, [*terms, *(-1.0 * one for one in given)])


def _starts(model: mathopt.Model, levels: Sequence[ProgramLevel], hours: float) -> list[Expression]:
    """Return the cost of all starts of a day, each level following the one before it."""
    found: list[Expression] = []
    if hours <= 0.0 or len(levels) < 2:
        return found
    running: list[dict[ShapeKey, list[tuple[Column, mathopt.Variable]]]] = []
    for level in levels:
        by_shape: dict[ShapeKey, list[tuple[Column, mathopt.Variable]]] = {}
        for column, count in level.used():
            by_shape.setdefault(shape_key(column), []).append((column, count))
        running.append(by_shape)
    for at, level in enumerate(levels):
        before, now = running[at - 1], running[at]
        for key, pairs in now.items():
            started = model.add_variable(lb=0.0)
            up = [-float(c.replicas) * x for c, x in pairs]
            down = [float(c.replicas) * x for c, x in before.get(key, [])]
            at_least(model, [started, *up, *down])
            column = pairs[0][0]
            found.append(hours * level.master.unit_cost[column.group] * column.replica_devices * started)
    return found


def choices_of(
    level: ProgramLevel, result: mathopt.SolveResult, load: float | None
) -> tuple[Chosen | None, ...]:
    """Return what a solution chooses per model; `load` is the share of the traffic that all are served."""
    return tuple(
        _choice(modes, demand, result, None if load is None else load * demand.rate_rps)
        for modes, demand in zip(level.models, level.master.demands, strict=True)
    )


def _choice(
    modes: Sequence[_ModeVariables], demand: Demand, result: mathopt.SolveResult, served_rps: float | None
) -> Chosen | None:
    if not modes:
        return None
    chosen = max(modes, key=lambda mode: result.variable_values(mode.taken))
    counts = tuple(
        joined(
            [(c, n) for c, x in half if (n := round(result.variable_values(x)))],
            (c for c, _ in half),
            demand,
        )
        for half in chosen.columns
    )
    served = result.variable_values(chosen.served) if served_rps is None else served_rps
    return Chosen(mode=chosen.mode, counts=counts, served_rps=max(0.0, served))
