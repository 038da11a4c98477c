"""The most runs per second that routes through an agent graph can share: a linear program by columns.

A route is one choice of models and streams for every call. Route r runs x_r times a second and takes a_rk of
the shared thing k (seconds of slots, calls of a rate) per run:

    maximise sum x_r  so that  sum a_rk x_r <= capacity_k for every k, x >= 0.

Routes are found one by one: at the prices of the program (its duals) the cheapest route is added until
none costs less than 1. If the cheapest costs t at prices p, p / t is feasible in the dual, so that no mixture
of routes exceeds the value divided by t (Farley 1990).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ortools.math_opt.python import mathopt

from planner.search.mip import row
from planner.space.agent_shares import Uses

Picks = tuple[int, ...]
"""The mode of every task."""

_SLACK = 1e-9
_MAX_ROUTES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheapest:
    """The cheapest route found at some prices, and what no route costs less than."""

    picks: Picks
    uses: Uses
    least: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Routes with their runs per second, the most that any mixture could reach, and the price per unit.

    `bound` equals `value` where that is proved; `prices` are runs per second lost per unit of capacity.
    """

    value: float
    bound: float
    rates: tuple[tuple[Picks, float], ...]
    prices: Uses
    num_routes: int


Oracle = Callable[[Uses], Cheapest | None]


def best_mixture(capacity: Uses, oracle: Oracle, stop: Callable[[], bool]) -> Mixture | None:
    """Return the best mixture of routes; None if there is no route at all.

    Raises
    ------
    ValueError
        If a route takes nothing of what is shared, so that nothing limits how often it runs.
    """
    start = {name: 1.0 / (amount * len(capacity)) for name, amount in capacity.items()}
    found = oracle(start)
    if found is None:
        return None
    known: dict[Picks, Uses] = {}
    bound = float("inf")
    while True:
        if not any(found.uses.get(name, 0.0) > 0.0 for name in capacity):
            raise ValueError("nothing that runs share limits how many there are per second")
        known[found.picks] = found.uses
        value, rates, prices = _master(capacity, list(known.values()))
        if stop() or len(known) >= _MAX_ROUTES:
            break
        found = oracle(prices)
        if found is None:
            break
        if found.least > 0.0:
            bound = min(bound, value / min(found.least, 1.0))
        if found.picks in known or _cost(found.uses, prices) >= 1.0 - _SLACK:
            break
    used = tuple((picks, rate) for picks, rate in zip(known, rates, strict=True) if rate > _SLACK * value)
    return Mixture(value=value, bound=max(bound, value), rates=used, prices=prices, num_routes=len(known))


def _cost(uses: Uses, prices: Uses) -> float:
    return sum(amount * prices.get(name, 0.0) for name, amount in uses.items())


def _master(capacity: Uses, routes: list[Uses]) -> tuple[float, list[float], Uses]:
    """Return value, runs per second of each route, and prices of the program over known routes."""
    model = mathopt.Model()
    limits = {name: row(model, high=amount) for name, amount in capacity.items()}
    rates = [model.add_variable(lb=0.0) for _ in routes]
    for rate, uses in zip(rates, routes, strict=True):
        model.objective.set_linear_coefficient(rate, 1.0)
        for name, amount in uses.items():
            limits[name].set_coefficient(rate, amount)
    model.objective.is_maximize = True
    result = mathopt.solve(model, mathopt.SolverType.GLOP)
    values = result.variable_values()
    duals = {name: result.dual_values(limit) for name, limit in limits.items()}
    prices = {name: dual if dual > 0.0 else 0.0 for name, dual in duals.items()}
    return result.objective_value(), [values[rate] for rate in rates], prices
