"""Exact answer to a fleet that minimises: prices on devices, then every cover that could be optimal.

1. Column generation finds prices on the shared devices; at any prices the cheapest modes of all models
   give a lower bound (Lagrange), at the end the best one.
2. A better answer than one of value U can only use covers whose priced cost exceeds the model's cheapest
   by at most U minus the bound. These are enumerated, and an integer program picks among them. If its
   answer lies inside the window that was enumerated, it is the optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from ortools.math_opt.python import mathopt

from cost_models.cost import FloatArray
from planner.search.fleet_cover_program import CoverProgram, common_step
from planner.search.fleet_covers import Half
from planner.search.fleet_master import Master, MasterSolution, Mode, Work
from planner.search.mip import row

METHOD = "Lagrangian bound over exact covers, enumeration of every cover in the gap, integer program (HiGHS)"
PROVED = 1e-6
_MAX_ROUNDS = 80
_SMALL_WINDOW = 2e-4
_WIDEST_WINDOW = 0.02
_PENALTY = 1e3

Stop = Callable[[], bool]


@dataclass(slots=True, kw_only=True)
class _PricedMode:
    """A mode with its halves ready to be covered."""

    mode: Mode
    halves: list[Half]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prices:
    """Prices on the rows, the bound there, and the least cost of each mode of each model."""

    rows: FloatArray
    bound: float
    least: tuple[tuple[float, ...], ...]


@dataclass(slots=True, kw_only=True)
class PatternSolver:
    """Solves one master problem."""

    master: Master
    work: Work
    models: list[list[_PricedMode]] = field(default_factory=list[list[_PricedMode]])

    def __post_init__(self) -> None:
        """Fill the tables of every half."""
        devices = [room.num_devices for room in self.master.rooms]
        for demand in self.master.demands:
            self.models.append(
                [
                    _PricedMode(
                        mode=mode, halves=[Half.of(half, devices, demand.rate_rps) for half in mode.halves]
                    )
                    for mode in demand.modes
                ]
            )

    @property
    def unit(self) -> FloatArray:
        """Cost of a device by group."""
        return np.array(self.master.unit_cost)

    def solve(self, end_s: float, gap: float) -> MasterSolution | None:
        """Return the optimum or an answer within the gap or time; None where this method finds none."""
        prices, lacking = self._prices(end_s)
        if prices is None:
            return MasterSolution(status="infeasible", method=METHOD) if lacking else None
        window, best = _SMALL_WINDOW * max(prices.bound, 1e-12), None
        while True:
            found, complete = self._pick(prices, window, (end_s, gap))
            wider = window * 4.0
            if found is not None:
                if best is None or (found.value or 0.0) < (best.value or 0.0):
                    best = found
                distance = (best.value or 0.0) - prices.bound
                proved = complete and distance <= window * (1.0 + 1e-9)
                if proved or distance <= max(gap, PROVED) * abs(best.value or 0.0):
                    return self._finished(best, prices, proved=proved)
                wider = max(distance, wider if not complete else 0.0)
            if wider > _WIDEST_WINDOW * max(prices.bound, 1e-12) or monotonic() > end_s:
                return None if best is None else self._finished(best, prices, proved=False)
            window = wider

    def _finished(self, best: MasterSolution, prices: _Prices, *, proved: bool) -> MasterSolution:
        # Within the enumerated window the integer program is exact, so its own bound counts.
        inner = best.bound if proved and best.bound is not None else prices.bound
        bound = min(max(inner, prices.bound), best.value or 0.0)
        distance = (best.value or 0.0) - bound
        optimal = distance <= PROVED * max(abs(best.value or 0.0), 1e-12)
        return MasterSolution(
            status="optimal" if optimal else "feasible",
            choices=best.choices,
            value=best.value,
            bound=bound,
            method=METHOD,
        )

    def _weights(self, rows: FloatArray) -> FloatArray:
        return self.unit + rows @ np.array([row.weights for row in self.master.rows])

    def _evaluate(self, rows: FloatArray) -> tuple[_Prices, list[FloatArray]]:
        """Return the bound at prices and the device vectors of the cheapest modes."""
        weights = self._weights(rows)
        least: list[tuple[float, ...]] = []
        vectors: list[FloatArray] = []
        for modes in self.models:
            costs: list[float] = []
            uses: list[FloatArray] = []
            for priced in modes:
                parts = [half.least(weights) for half in priced.halves]
                costs.append(sum(cost for cost, _ in parts))
                uses.append(
                    sum((c.astype(np.float64) for _, c in parts if c is not None), np.zeros(weights.size))
                )
            least.append(tuple(costs))
            vectors.append(uses[int(np.argmin(costs))] if costs else np.zeros(weights.size))
            self.work.add("cheapest_covers", len(modes))
        limits = np.array([row.limit for row in self.master.rows])
        bound = sum(min(costs, default=0.0) for costs in least) - float(rows @ limits)
        return _Prices(rows=rows, bound=bound, least=tuple(least)), vectors

    def _prices(self, end_s: float) -> tuple[_Prices | None, bool]:
        """Return the best prices found; none if the devices do not carry the demand even in fractions.

        The second value tells whether that is proved, or the time was up.
        """
        rows = np.zeros(len(self.master.rows))
        pools: list[dict[tuple[float, ...], FloatArray]] = [{} for _ in self.models]
        best: _Prices | None = None
        lacking, finished, count = True, False, 0
        while count < _MAX_ROUNDS:
            count += 1
            priced, vectors = self._evaluate(rows)
            if not np.isfinite(priced.bound):
                return None, True
            if best is None or priced.bound > best.bound:
                best = priced
            for pool, vector in zip(pools, vectors, strict=True):
                pool[tuple(vector.tolist())] = vector
            value, duals, missing = self._fractional(pools)
            lacking = missing > 1e-7
            finished = value - best.bound <= 1e-7 * max(1.0, abs(value))
            if finished or monotonic() > end_s:
                break
            rows = np.maximum(0.5 * (duals + best.rows) if count < 10 and not lacking else duals, 0.0)
        self.work.add("price_rounds", count)
        return (None, finished) if lacking else (best, False)

    def _fractional(
        self, pools: Sequence[dict[tuple[float, ...], FloatArray]]
    ) -> tuple[float, FloatArray, float]:
        """Return value and duals of the best mixture of the vectors known, and what the rows then lack."""
        model = mathopt.Model()
        one = [row(model, low=1.0, high=1.0) for _ in pools]
        limits = [row(model, high=own.limit) for own in self.master.rows]
        short: list[mathopt.Variable] = []
        high = _PENALTY * float(self.unit.max(initial=1e-9))
        for own, limit in zip(self.master.rows, limits, strict=True):
            slack = model.add_variable(lb=0.0)
            limit.set_coefficient(slack, -1.0)
            scale = max((w for w in own.weights if w > 0.0), default=1.0)
            model.objective.set_linear_coefficient(slack, high / scale)
            short.append(slack)
        for convex, pool in zip(one, pools, strict=True):
            for vector in pool.values():
                share = model.add_variable(lb=0.0)
                convex.set_coefficient(share, 1.0)
                model.objective.set_linear_coefficient(share, float(self.unit @ vector))
                for own, limit in zip(self.master.rows, limits, strict=True):
                    limit.set_coefficient(share, float(np.dot(own.weights, vector)))
        result = mathopt.solve(model, mathopt.SolverType.GLOP)
        duals = np.array([-result.dual_values(limit) for limit in limits])
        values = result.variable_values(short)
        lacks = [v / max(own.limit, 1.0) for v, own in zip(values, self.master.rows, strict=True)]
        return result.objective_value(), duals, float(max(lacks, default=0.0))

    def _pick(
        self, prices: _Prices, window: float, limits: tuple[float, float]
    ) -> tuple[MasterSolution | None, bool]:
        """Return the best answer among the covers in a window, and whether all of these were tried."""
        weights = self._weights(prices.rows)
        end_s, gap = limits
        program = CoverProgram(master=self.master, unit=self.unit, step=common_step(self.unit))
        for demand, modes, least in zip(self.master.demands, self.models, prices.least, strict=True):
            for priced, cost in zip(modes, least, strict=True):
                spare = window - (cost - min(least))
                if spare >= -1e-12:
                    listed = [
                        half.within(weights, half.least(weights)[0] + max(spare, 0.0))
                        for half in priced.halves
                    ]
                    program.complete &= all(complete for _, complete in listed)
                    program.add_mode(demand, priced.mode, priced.halves, [covers for covers, _ in listed])
            program.close_model(needed=bool(modes))
        self.work.add("covers_listed", program.num_covers)
        found = program.solve(end_s - monotonic(), max(PROVED / 10.0, gap / 4.0))
        if found is None:
            return None, program.complete
        choices, bound = found
        value = sum(
            float(self.unit[column.group]) * column.num_devices * count
            for choice in choices
            for half in (choice.counts if choice is not None else ())
            for column, count in half
        )
        answer = MasterSolution(
            status="feasible", choices=choices, value=value, bound=min(bound, value), method=METHOD
        )
        return answer, program.complete
