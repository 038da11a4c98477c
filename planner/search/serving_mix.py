"""Several node groups at once: what each carries with how many of its devices, as an integer program.

A *use* is one role on one group in one context; a table says what it carries with n devices. For every
use at most one device count is chosen. Prefill and decode uses of a context share a link, and the pairs
of a context carry what the slower of both sides does, so they may lie on any groups that the link joins.
The tables of pools are exact and so is the choice among them; the value is added up again in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.ir.serving import Role
from planner.search.serving_contexts import cross_contexts, inner_contexts
from planner.search.serving_pools import Context, PoolPick, PoolTables, RoleTable
from planner.search.serving_question import Question

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

_SAME = 1e-9
_SLACK = 1e-7
"""Relative tolerance of a limit in the solver; limits are checked again in floats."""
_MAX_RATIO_STEPS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One role on one group in one context, with the device counts that are worth choosing."""

    role: Role
    context: Context | None
    group: int
    table: RoleTable
    sizes: tuple[int, ...]
    carried: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """A choice: (use, devices) pairs, what it carries, and a bound of what was optimised."""

    chosen: tuple[tuple[Use, int], ...]
    total: float
    devices: tuple[int, ...]
    bound: float
    proved: bool

    def picks(self) -> list[PoolPick]:
        """Return the pools behind the choice."""
        return [pick for use, size in self.chosen for pick in use.table.picks(size)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What to optimise: the total carried, a price per device of each group, or price less rate x total.

    `demand` is the least total, `most` the highest price.
    """

    prices: tuple[float, ...]
    rate: float | None = None
    demand: float = 0.0
    most: float = np.inf
    maximise_total: bool = False


def uses_of(tables: PoolTables, question: Question) -> list[Use]:
    """Return every use, aggregated ones first; the time limit leaves out the last contexts."""
    catalogue = tables.catalogue
    groups = range(len(question.resources.num_devices))
    uses: list[Use] = []
    if "aggregated" in question.modes:
        uses.extend(_uses(tables, question, "aggregated", None, groups))
    kept: list[_Pairs] = []
    if "disaggregated" in question.modes:
        for context, members in _contexts(catalogue, question, groups):
            if tables.out_of_time():
                break
            found = _Pairs(
                context=context,
                prefill=tuple(_uses(tables, question, "prefill", context, members)),
                decode=tuple(_uses(tables, question, "decode", context, members)),
            )
            if not found.prefill or not found.decode or any(pairs.beats(found) for pairs in kept):
                continue
            kept = [pairs for pairs in kept if not found.beats(pairs)] + [found]
    for pairs in kept:
        uses.extend((*pairs.prefill, *pairs.decode))
    return uses


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """All uses of one context."""

    context: Context
    prefill: tuple[Use, ...]
    decode: tuple[Use, ...]

    def beats(self, other: _Pairs) -> bool:
        """Return whether every choice of the other context carries as much in this one."""
        if self.context.max_devices < other.context.max_devices:
            return False
        return all(
            any(_covers(own, use) for own in owns)
            for owns, uses in ((self.prefill, other.prefill), (self.decode, other.decode))
            for use in uses
        )


def _covers(own: Use, use: Use) -> bool:
    best, other = own.table.best, use.table.best
    return own.group == use.group and bool((best >= other * (1.0 - _SAME))[list(use.sizes)].all())


def _contexts(catalogue: Any, question: Question, groups: range) -> Iterator[tuple[Context, range]]:
    for context in cross_contexts(catalogue, question):
        yield context, groups
    for group in groups:
        for context in inner_contexts(catalogue, group, question):
            yield context, range(group, group + 1)


def _uses(
    tables: PoolTables, question: Question, role: Role, context: Context | None, groups: range
) -> Iterator[Use]:
    for group in groups:
        table = tables.table(role, context, group, question)
        sizes = tuple(int(n) for n in table.steps(None if context is None else context.max_devices)[1:])
        if sizes:
            yield Use(
                role=role,
                context=context,
                group=group,
                table=table,
                sizes=sizes,
                carried=tuple(float(table.best[n]) for n in sizes),
            )


@dataclass(slots=True, kw_only=True)
class Program:
    """The integer program over uses; `remaining_s` says how long the solver may still run."""

    uses: list[Use]
    question: Question
    remaining_s: Callable[[], float]
    _scale: float = field(init=False)

    def __post_init__(self) -> None:
        """Count what is carried in the largest amount that occurs."""
        self._scale = max((c for use in self.uses for c in use.carried), default=1.0)

    def best(self, aim: Aim) -> Mix | None:
        """Return the optimal choice (or the best within the time), None if there is none."""
        from ortools.math_opt.python import mathopt

        if not self.uses:
            return None
        model = mathopt.Model()
        taken = [[model.add_binary_variable() for _ in use.sizes] for use in self.uses]
        total = self._total(model, taken)
        price = self._over_sizes(taken, [aim.prices[use.group] for use in self.uses])
        self._limits(model, taken)
        if aim.demand > 0.0:
            _at_most(model, -total, -aim.demand / self._scale * (1.0 - _SAME))
        if np.isfinite(aim.most):
            _at_most(model, price, aim.most * (1.0 + _SLACK))
        if aim.maximise_total:
            model.maximize(total)
        elif aim.rate is not None:
            model.minimize(price - aim.rate * self._scale * total)
        else:
            model.minimize(price)
        answer = mathopt.solve(model, mathopt.SolverType.HIGHS, params=self._parameters(mathopt))
        if not answer.has_primal_feasible_solution():
            return None
        proved = answer.termination.reason == mathopt.TerminationReason.OPTIMAL
        values = answer.variable_values()
        chosen = tuple(
            (use, use.sizes[at])
            for use, choices in zip(self.uses, taken, strict=True)
            for at, variable in enumerate(choices)
            if values[variable] > 0.5
        )
        return self._mix(chosen, aim, None if proved else answer.dual_bound())

    def _parameters(self, mathopt: Any) -> mathopt.SolveParameters:
        return mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(0.2, self.remaining_s())),
            relative_gap_tolerance=self.question.relative_gap,
            absolute_gap_tolerance=0.0,
            random_seed=0,
        )

    def _total(self, model: mathopt.Model, taken: list[list[mathopt.Variable]]) -> mathopt.LinearBase:
        """Add one choice per use and the pairs; return what all carry, in units of the scale."""
        from ortools.math_opt.python import mathopt

        terms: list[mathopt.LinearTypes] = []
        sides: dict[Context, dict[Role, list[mathopt.LinearTypes]]] = {}
        for use, choices in zip(self.uses, taken, strict=True):
            _at_most(model, mathopt.fast_sum(choices), 1.0)
            carried = mathopt.fast_sum(
                c / self._scale * variable for c, variable in zip(use.carried, choices, strict=True)
            )
            if use.context is None:
                terms.append(carried)
            else:
                sides.setdefault(use.context, {}).setdefault(use.role, []).append(carried)
        for both in sides.values():
            pair = model.add_variable(lb=0.0)
            for role in ("prefill", "decode"):
                _at_most(model, pair - mathopt.fast_sum(both.get(role, [])), 0.0)
            terms.append(pair)
        return mathopt.fast_sum(terms)

    def _over_sizes(self, taken: list[list[mathopt.Variable]], weights: list[float]) -> mathopt.LinearBase:
        """Return the sum over chosen sizes, weighted per use."""
        from ortools.math_opt.python import mathopt

        return mathopt.fast_sum(
            weight * size * variable
            for use, choices, weight in zip(self.uses, taken, weights, strict=True)
            for size, variable in zip(use.sizes, choices, strict=True)
        )

    def _limits(self, model: mathopt.Model, taken: list[list[mathopt.Variable]]) -> None:
        """Add devices of every group, the budget, and the reach of local contexts."""
        resources, budget = self.question.resources, self.question.budget
        for group, count in enumerate(resources.num_devices):
            own = [1.0 if use.group == group else 0.0 for use in self.uses]
            _at_most(model, self._over_sizes(taken, own), float(count))
        for limit, prices in (
            (budget.num_devices, [1.0] * len(resources.num_devices)),
            (budget.usd_per_hour, [p or 0.0 for p in resources.usd_per_device_hour]),
            (budget.power_w, list(resources.power_w_per_device)),
        ):
            if limit is not None:
                weights = [prices[use.group] for use in self.uses]
                _at_most(model, self._over_sizes(taken, weights), limit * (1.0 + _SAME))
        for context in {use.context: None for use in self.uses if use.context is not None}:
            if context.max_devices < sum(resources.num_devices):
                inside = [1.0 if use.context == context else 0.0 for use in self.uses]
                _at_most(model, self._over_sizes(taken, inside), float(context.max_devices))

    def _mix(self, chosen: tuple[tuple[Use, int], ...], aim: Aim, bound: float | None) -> Mix:
        """Add the choice up again in floats; without a dual bound its own value is proved.

        A side that has no other carries nothing: where devices cost nothing the solver may leave it in.
        """
        sides = {(use.context, use.role) for use, _ in chosen}
        chosen = tuple(
            (use, size)
            for use, size in chosen
            if use.context is None or {(use.context, "prefill"), (use.context, "decode")} <= sides
        )
        sums: dict[tuple[Context | None, Role], float] = {}
        devices = [0] * len(self.question.resources.num_devices)
        for use, size in chosen:
            key = (use.context, use.role)
            sums[key] = sums.get(key, 0.0) + float(use.table.best[size])
            devices[use.group] += size
        contexts = {context: None for context, _ in sums if context is not None}
        total = sums.get((None, "aggregated"), 0.0) + sum(
            min(sums.get((c, "prefill"), 0.0), sums.get((c, "decode"), 0.0)) for c in contexts
        )
        price = sum(p * n for p, n in zip(aim.prices, devices, strict=True))
        own = total if aim.maximise_total else price
        if bound is not None and aim.maximise_total:
            bound *= self._scale
        return Mix(
            chosen=chosen,
            total=total,
            devices=tuple(devices),
            bound=own if bound is None else bound,
            proved=bound is None,
        )


def _at_most(model: mathopt.Model, expression: mathopt.LinearBase, limit: float) -> None:
    model.add_linear_constraint(expr=expression, ub=limit)  # pyright: ignore[reportUnknownMemberType] - mathopt leaves numpy's bool untyped


def solve_mix(tables: PoolTables, question: Question) -> Mix | None:
    """Return the best choice over all groups; among equals the one with fewest devices, or most carried."""
    program = Program(uses=uses_of(tables, question), question=question, remaining_s=tables.remaining_s)
    ones = (1.0,) * len(question.resources.num_devices)
    if question.goal == "max_throughput":
        most = program.best(Aim(prices=ones, maximise_total=True, demand=question.rate_rps or 0.0))
        if most is None or most.total <= 0.0:
            return None
        return most
    prices = _prices(question)
    if question.goal == "min_cost_per_token" and question.rate_rps is None:
        return _least_ratio(program, prices)
    demand = question.rate_rps or _SLACK
    least = program.best(Aim(prices=prices, demand=demand))
    if least is None:
        return None
    cost = sum(p * n for p, n in zip(prices, least.devices, strict=True))
    roomy = program.best(Aim(prices=prices, demand=demand, most=cost, maximise_total=True))
    if roomy is None or sum(p * n for p, n in zip(prices, roomy.devices, strict=True)) > cost * (1.0 + _SAME):
        return least
    return replace(roomy, bound=least.bound, proved=least.proved)


def _prices(question: Question) -> tuple[float, ...]:
    resources = question.resources
    if question.goal in ("min_cost", "min_cost_per_token"):
        return tuple(price or 0.0 for price in resources.usd_per_device_hour)
    if question.goal == "min_power":
        return resources.power_w_per_device
    return (1.0,) * len(resources.num_devices)


def _least_ratio(program: Program, prices: tuple[float, ...]) -> Mix | None:
    """Return the choice of least price per carried request, by Dinkelbach's steps.

    Source: Dinkelbach, "On nonlinear fractional programming" (1967): with the rate of the best choice so
    far, the least of price - rate x total is zero exactly at the optimum.
    """
    best = program.best(Aim(prices=prices, maximise_total=True))
    if best is None or best.total <= 0.0:
        return None
    proved = False
    for _ in range(_MAX_RATIO_STEPS):
        rate = _price_of(best, prices) / best.total
        found = program.best(Aim(prices=prices, rate=rate))
        proved = found is not None and found.proved
        if found is None or found.total <= 0.0:
            break
        if _price_of(found, prices) / found.total >= rate * (1.0 - _SAME):
            break
        best = found
    return replace(best, bound=0.0, proved=proved)


def _price_of(mix: Mix, prices: tuple[float, ...]) -> float:
    return sum(p * n for p, n in zip(prices, mix.devices, strict=True))
