"""The CP-SAT model of a scheduling problem in ticks: variables, constraints, objective.

Notation: start s_t, end e_t, presence x_tm of mode m of task t with duration d_tm, makespan C.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

from ortools.sat.python import cp_model

from planner.ir.scheduling_problem import Lag, SchedulingProblem
from planner.search.agent_bounds import Bounds, lag_rows
from planner.search.agent_chains import equal_chains
from planner.search.agent_ticks import Ticks

_LEVELS = 1_000_000
_COST_PARTS = 64

# ortools gives the arguments of these two no types
_LINEAR = cast("Any", cp_model.LinearExpr)
_weighted = cast(
    "Callable[[Sequence[cp_model.IntVar], Sequence[int]], cp_model.LinearExpr]", _LINEAR.weighted_sum
)
_total = cast("Callable[[Sequence[cp_model.LinearExprT]], cp_model.LinearExpr]", _LINEAR.sum)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Whole coefficients of the objective: `scale` units stand for one unit of the problem's objective.

    `per_second` is the sum of all weights on times; `num_rounded_times` and `num_rounded_costs` count the
    coefficients that are not exact, each off by half a unit at most.
    """

    makespan: int
    ends: tuple[int, ...]
    costs: tuple[tuple[int, ...], ...]
    scale: float
    per_second: float
    num_rounded_times: int
    num_rounded_costs: int

    @property
    def only_makespan(self) -> bool:
        """Whether nothing but the makespan counts."""
        return not any(self.ends) and not any(any(c) for c in self.costs)

    def rounding(self, horizon: int) -> float:
        """Return what rounded coefficients can hide, in units of the objective."""
        return 0.5 * (self.num_rounded_times * horizon + self.num_rounded_costs) / self.scale


def weigh(ticks: Ticks) -> Weights:
    """Return the objective's coefficients per tick and per mode as whole numbers.

    Weights of times that are multiples of the least stay exact; costs are counted in small parts of it.
    """
    problem = ticks.problem
    per_tick = [problem.makespan_weight * ticks.tick_s, *(t.weight * ticks.tick_s for t in problem.tasks)]
    costs = [[m.cost for m in t.modes] for t in problem.tasks]
    flat = [abs(c) for row in costs for c in row if c != 0.0]
    times = [abs(v) for v in per_tick if v != 0.0]
    scale = _scale(times, flat)
    return Weights(
        makespan=round(per_tick[0] * scale),
        ends=tuple(round(v * scale) for v in per_tick[1:]),
        costs=tuple(tuple(round(c * scale) for c in row) for row in costs),
        scale=scale,
        per_second=sum(abs(v) for v in per_tick) / ticks.tick_s,
        num_rounded_times=sum(not _is_whole(v * scale) for v in times),
        num_rounded_costs=sum(any(not _is_whole(c * scale) for c in row) for row in costs),
    )


def _is_whole(value: float) -> bool:
    return abs(value - round(value)) <= 1e-9 * max(1.0, abs(value))


def _scale(times: list[float], costs: list[float]) -> float:
    """Return the units per unit of the objective."""
    base = min(times or costs, default=1.0)
    most = max(times or costs, default=1.0)
    if most / base > _LEVELS or not all(_is_whole(v / base) for v in (times or costs)):
        return _LEVELS / most
    return (_COST_PARTS if times and costs else 1) / base


@dataclass(frozen=True, slots=True, kw_only=True)
class Vars:
    """Variables: starts, ends, presence literals by (task, mode), the makespan."""

    starts: list[cp_model.IntVar]
    ends: list[cp_model.LinearExprT]
    chosen: list[list[cp_model.IntVar]]
    makespan: cp_model.IntVar


def build(
    problem: SchedulingProblem, limits: Bounds, horizon: int, weights: Weights
) -> tuple[cp_model.CpModel, Vars]:
    """Return the model of a problem in ticks, with nothing ending after `horizon`."""
    model = cp_model.CpModel()
    variables = _variables(model, problem, limits, horizon)
    _one_mode_each(model, problem, variables)
    _needs(model, problem, variables)
    _deadlines(model, problem, variables)
    _lags(model, problem, variables)
    _lag_rows(model, problem, variables)
    if problem.period_s is None:
        _renewable(model, problem, variables)
    else:
        _renewable_modulo(model, problem, variables, int(problem.period_s))
    _budgets(model, problem, variables)
    _makespan(model, problem, variables, limits)
    _loads(model, problem, variables, limits)
    _equal_chains(model, problem, variables)
    _objective(model, variables, weights)
    return model, variables


def _variables(model: cp_model.CpModel, problem: SchedulingProblem, limits: Bounds, horizon: int) -> Vars:
    """s_t in [head, horizon - tail]; e_t = s_t + sum_m d_tm x_tm."""
    starts: list[cp_model.IntVar] = []
    ends: list[cp_model.LinearExprT] = []
    chosen: list[list[cp_model.IntVar]] = []
    for t, task in enumerate(problem.tasks):
        start = model.new_int_var(limits.heads[t], max(horizon - limits.tails[t], limits.heads[t]), f"s{t}")
        if len(task.modes) == 1:
            literals = [model.new_constant(1)]
        elif task.twin is not None:
            literals = chosen[task.twin]
        else:
            literals = [model.new_bool_var(f"x{t}_{m}") for m in range(len(task.modes))]
        durations = [int(m.duration_s) for m in task.modes]
        same = len(set(durations)) == 1
        length = durations[0] if same else _weighted(literals, durations)
        starts.append(start)
        ends.append(start + length)
        chosen.append(literals)
    makespan = model.new_int_var(limits.makespan, max(horizon, limits.makespan), "C")
    return Vars(starts=starts, ends=ends, chosen=chosen, makespan=makespan)


def _one_mode_each(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """sum_m x_tm = 1."""
    for task, literals in zip(problem.tasks, v.chosen, strict=True):
        if len(literals) > 1 and task.twin is None:
            model.add_exactly_one(literals)


def _needs(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """x_tm implies that each task that the mode needs runs at the site it needs it at."""
    for task, literals in zip(problem.tasks, v.chosen, strict=True):
        for mode, literal in zip(task.modes, literals, strict=True):
            for other, site in mode.needs:
                there = [
                    x
                    for m, x in zip(problem.tasks[other].modes, v.chosen[other], strict=True)
                    if m.site == site
                ]
                if len(there) < len(v.chosen[other]):
                    model.add_bool_or([*there, ~literal])


def _deadlines(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """e_t <= deadline_t."""
    for task, end in zip(problem.tasks, v.ends, strict=True):
        if task.deadline_s is not None:
            model.add(end <= int(task.deadline_s))


def _lags(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """point(after) >= point(before) + lag, plus the off-site time unless both run at one site."""
    for lag in problem.lags:
        before = v.ends[lag.before] if lag.kind.startswith("end") else v.starts[lag.before]
        after = v.ends[lag.after] if lag.kind.endswith("end") else v.starts[lag.after]
        if lag.after_modes is not None:
            for mode in lag.after_modes:
                model.add(after >= before + int(lag.lag_s)).only_enforce_if(  # pyright: ignore[reportUnknownMemberType] - untyped overload
                    v.chosen[lag.after][mode]
                )
            continue
        model.add(after >= before + int(lag.lag_s))
        if lag.off_site_s:
            together = _together(model, problem, v, lag)
            if together is None:
                model.add(after >= before + int(lag.lag_s + lag.off_site_s))
            else:
                model.add(after >= before + int(lag.lag_s + lag.off_site_s)).only_enforce_if(  # pyright: ignore[reportUnknownMemberType] - untyped overload
                    ~together
                )


def _lag_rows(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """Keep what lags of single modes ask for on the average of modes: redundant, for the solver's bound."""
    for row in lag_rows(problem):
        after = v.ends[row.after] if row.ends else v.starts[row.after]
        before = v.ends[row.before] if row.ends else v.starts[row.before]
        literals = [v.chosen[row.after][m] for m, _ in row.after_terms]
        literals += [v.chosen[row.before][m] for m, _ in row.before_terms]
        asked = [c for _, c in (*row.after_terms, *row.before_terms)]
        model.add(_total([after, -1 * before, -1 * _weighted(literals, asked)]) >= 0)


def _together(
    model: cp_model.CpModel, problem: SchedulingProblem, v: Vars, lag: Lag
) -> cp_model.IntVar | None:
    """Return a literal that implies that both tasks run at one site; None if they never can."""
    at: list[dict[str, list[cp_model.IntVar]]] = []
    for t in (lag.before, lag.after):
        by_site: dict[str, list[cp_model.IntVar]] = {}
        for mode, literal in zip(problem.tasks[t].modes, v.chosen[t], strict=True):
            by_site.setdefault(mode.site, []).append(literal)
        at.append(by_site)
    shared = [site for site in at[0] if site in at[1]]
    if not shared:
        return None
    together = model.new_bool_var(f"same{lag.before}_{lag.after}")
    for site in at[0]:
        others = at[1].get(site, [])
        for literal in at[0][site]:
            model.add_bool_or([*others, ~together]).only_enforce_if(  # pyright: ignore[reportUnknownMemberType] - untyped overload
                literal
            )
    return together


def _renewable(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """NoOverlap where any two tasks exclude each other, Cumulative elsewhere."""
    users: list[list[tuple[cp_model.IntervalVar, int]]] = [[] for _ in problem.resources]
    for t, m, demand in problem.demands():
        resource = problem.resources[demand.resource]
        mode = problem.tasks[t].modes[m]
        if not resource.renewable or demand.amount == 0:
            continue
        if demand.amount > resource.capacity:
            model.add_bool_or([~v.chosen[t][m]])
            continue
        hold = int(mode.hold_s(demand))
        if hold > 0:
            interval = _interval(model, v, (t, m), hold)
            users[demand.resource].append((interval, demand.amount))
    for resource, group in zip(problem.resources, users, strict=True):
        if len(group) < 2:
            continue
        if 2 * min(amount for _, amount in group) > resource.capacity:
            model.add_no_overlap([interval for interval, _ in group])
        else:
            model.add_cumulative([i for i, _ in group], [a for _, a in group], resource.capacity)


def _renewable_modulo(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars, period: int) -> None:
    """Keep every resource within its capacity at any time of a period, over all runs that share it.

    s_t = period * k_t + r_t. Of a hold h, h // period whole periods are taken always, and the rest from r_t
    on; what passes the end of the period is seen again at its start.
    """
    users: list[list[tuple[cp_model.IntervalVar, int]]] = [[] for _ in problem.resources]
    energies: list[list[tuple[cp_model.IntVar, int]]] = [[] for _ in problem.resources]
    places: dict[int, cp_model.IntVar] = {}
    for t, m, demand in problem.demands():
        resource, literal = problem.resources[demand.resource], v.chosen[t][m]
        hold = int(problem.tasks[t].modes[m].hold_s(demand))
        if not resource.renewable or demand.amount == 0 or hold == 0:
            continue
        energies[demand.resource].append((literal, demand.amount * hold))
        whole, rest = divmod(hold, period)
        if demand.amount * (whole + (rest > 0)) > resource.capacity:
            model.add_bool_or([~literal])
            continue
        name, group = f"p{t}_{m}", users[demand.resource]
        if whole:
            always = model.new_optional_fixed_size_interval_var(0, period, literal, f"{name}w")
            group.append((always, demand.amount * whole))
        if rest:
            if t not in places:
                places[t] = model.new_int_var(0, period - 1, f"r{t}")
                model.add_modulo_equality(places[t], v.starts[t], period)
            for shift in (0, period):
                part = model.new_optional_fixed_size_interval_var(
                    places[t] - shift, rest, literal, f"{name}r{shift}"
                )
                group.append((part, demand.amount))
    for resource, group, terms in zip(problem.resources, users, energies, strict=True):
        if group:
            model.add_cumulative([i for i, _ in group], [a for _, a in group], resource.capacity)
            work = _weighted([x for x, _ in terms], [e for _, e in terms])
            model.add(work <= resource.capacity * period)


def _interval(model: cp_model.CpModel, v: Vars, key: tuple[int, int], hold: int) -> cp_model.IntervalVar:
    t, m = key
    if len(v.chosen[t]) == 1:
        return model.new_fixed_size_interval_var(v.starts[t], hold, f"i{t}")
    return model.new_optional_fixed_size_interval_var(v.starts[t], hold, v.chosen[t][m], f"i{t}_{m}")


def _budgets(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """sum_tm amount_tmr x_tm <= capacity_r for every resource that is used up."""
    used: dict[int, list[tuple[cp_model.IntVar, int]]] = {}
    for t, m, demand in problem.demands():
        resource = problem.resources[demand.resource]
        if resource.renewable or not demand.amount:
            continue
        if demand.amount > resource.capacity:
            model.add_bool_or([~v.chosen[t][m]])
        else:
            used.setdefault(demand.resource, []).append((v.chosen[t][m], demand.amount))
    for index, terms in used.items():
        total = _weighted([x for x, _ in terms], [a for _, a in terms])
        model.add(total <= problem.resources[index].capacity)


def _makespan(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars, limits: Bounds) -> None:
    """C >= s_t + tail_t for all t, and C >= e_t."""
    for t, task in enumerate(problem.tasks):
        model.add(v.makespan >= v.ends[t])
        shortest = min(int(m.duration_s) for m in task.modes)
        if limits.tails[t] > shortest:
            model.add(v.makespan >= v.starts[t] + limits.tails[t])


def _loads(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars, limits: Bounds) -> None:
    """Keep capacity (C - head - tail) >= sum energy_tm x_tm, per resource and window."""
    for window in limits.windows:
        if window.until is None and all(len(problem.tasks[t].modes) == 1 for t, _, _ in window.terms):
            continue
        until = v.makespan if window.until is None else v.ends[window.until]
        energy = _weighted([v.chosen[t][m] for t, m, _ in window.terms], [e for _, _, e in window.terms])
        model.add(window.capacity * (until - window.head - window.tail) >= energy)


def _equal_chains(model: cp_model.CpModel, problem: SchedulingProblem, v: Vars) -> None:
    """Order interchangeable chains: s_t <= s_u for the first tasks t < u of neighbours in a class."""
    for group in equal_chains(problem):
        for before, after in pairwise(group):
            model.add(v.starts[before[0]] <= v.starts[after[0]])


def _objective(model: cp_model.CpModel, v: Vars, weights: Weights) -> None:
    """Minimise w_C C + sum w_t e_t + sum cost_tm x_tm."""
    terms: list[cp_model.LinearExprT] = [weights.makespan * v.makespan] if weights.makespan else []
    terms += [w * end for w, end in zip(weights.ends, v.ends, strict=True) if w]
    for literals, costs in zip(v.chosen, weights.costs, strict=True):
        terms += [c * x for c, x in zip(costs, literals, strict=True) if c]
    model.minimize(_total(terms) if terms else 0)
