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
from planner.search.fleet_combine import Options, TooManyError, combine
from planner.search.fleet_cover_program import CoverProgram, common_step
from planner.search.fleet_covers import Half, IntArray
from planner.search.fleet_master import Chosen, Master, MasterSolution, Mode, Work
from planner.search.mip import row

METHOD = (
    "Lagrangian bound over exact covers, enumeration of every cover in the gap, dynamic program over models "
    "(integer program, HiGHS, where they are many)"
)
PROVED = 1e-6
_MAX_ROUNDS = 80
_SMALL_WINDOW = 2e-4
_WIDEST_WINDOW = 0.02
_PENALTY = 1e3
_WHOLE = 1e-9
_MOST_PAIRS = 500_000
_NO_PLACES = np.zeros((0, 2), dtype=np.int64)

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
        devices = self._most_devices()
        for demand in self.master.demands:
            self.models.append(
                [
                    _PricedMode(
                        mode=mode, halves=[Half.of(half, devices, demand.rate_rps) for half in mode.halves]
                    )
                    for mode in demand.modes
                ]
            )

    def _most_devices(self) -> list[int]:
        """Return the most devices of each group that the rows allow by themselves."""
        most = [room.num_devices for room in self.master.rooms]
        for own in self.master.rows:
            for group, weight in enumerate(own.weights):
                if weight > 0.0:
                    most[group] = max(0, min(most[group], int(own.limit / weight + _WHOLE)))
        return most

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
                wider = min(distance, wider) if complete else max(distance, wider)
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
        damped = sum(bool(modes) for modes in self.models) > 1
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
            rows = np.maximum(
                0.5 * (duals + best.rows) if damped and count < 10 and not lacking else duals, 0.0
            )
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
        listed, complete = self._within(prices, window)
        self.work.add("covers_listed", sum(len(c) for own in listed for _, covers in own for c in covers))
        if complete:
            try:
                return self._combined(listed, prices, window), True
            except TooManyError:
                pass
        end_s, gap = limits
        program = CoverProgram(master=self.master, unit=self.unit, step=common_step(self.unit))
        for demand, modes, own in zip(self.master.demands, self.models, listed, strict=True):
            for priced, covers in own:
                program.add_mode(demand, priced.mode, priced.halves, covers)
            program.close_model(needed=bool(modes))
        found = program.solve(end_s - monotonic(), max(PROVED / 10.0, gap / 4.0))
        if found is None:
            return None, complete
        choices, bound = found
        return self._answer(choices, bound), complete

    def _within(self, prices: _Prices, window: float) -> tuple[list[_Listed], bool]:
        """Return for every model the modes and their covers inside a window, and whether these are all."""
        weights, complete = self._weights(prices.rows), True
        found: list[_Listed] = []
        for modes, least in zip(self.models, prices.least, strict=True):
            own: _Listed = []
            for priced, cost in zip(modes, least, strict=True):
                spare = window - (cost - min(least))
                if spare < -1e-12:
                    continue
                covers: list[IntArray] = []
                for half in priced.halves:
                    listed, all_of_them = half.within(weights, half.least(weights)[0] + max(spare, 0.0))
                    covers.append(listed)
                    complete &= all_of_them
                if all(listed.shape[0] for listed in covers):
                    own.append((priced, covers))
            found.append(own)
        return found, complete

    def _combined(self, listed: Sequence[_Listed], prices: _Prices, window: float) -> MasterSolution | None:
        """Return the best answer among covers by a dynamic program, None if the window holds none.

        Raises
        ------
        TooManyError
            If the covers are too many for that.
        """
        weights, rows = self._weights(prices.rows), np.array([row.weights for row in self.master.rows])
        asked = [at for at, modes in enumerate(self.models) if modes]
        ways = [_ways(listed[at], weights, min(prices.least[at]) + window) for at in asked]
        options = [
            Options(
                uses=way.devices @ rows.T,
                cost=way.devices @ self.unit,
                excess=way.devices @ weights - min(prices.least[at]),
            )
            for at, way in zip(asked, ways, strict=True)
        ]
        if any(not option.cost.size for option in options):
            return None
        found = combine(options, np.array([row.limit for row in self.master.rows]), window)
        if found is None:
            return None
        choices: list[Chosen | None] = [None] * len(self.models)
        for at, way, number in zip(asked, ways, found, strict=True):
            choices[at] = way.chosen(listed[at], number, self.master.demands[at].rate_rps)
        return self._answer(tuple(choices), None)

    def _answer(self, choices: tuple[Chosen | None, ...], bound: float | None) -> MasterSolution:
        value = sum(
            float(self.unit[column.group]) * column.num_devices * count
            for choice in choices
            for half in (choice.counts if choice is not None else ())
            for column, count in half
        )
        return MasterSolution(
            status="feasible",
            choices=choices,
            value=value,
            bound=value if bound is None else min(bound, value),
            method=METHOD,
        )


_Listed = list[tuple[_PricedMode, list[IntArray]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ways:
    """Every way to serve one model inside a window: devices by group, its mode, and a cover per half."""

    devices: FloatArray
    mode: IntArray
    covers: IntArray

    def chosen(self, listed: _Listed, number: int, rate_rps: float) -> Chosen:
        """Return one of them as a choice."""
        priced, covers = listed[int(self.mode[number])]
        counts = tuple(
            tuple(half.columns_of(own[at]).items())
            for half, own, at in zip(priced.halves, covers, self.covers[number].tolist(), strict=False)
        )
        return Chosen(mode=priced.mode, counts=counts, served_rps=rate_rps)


def _ways(listed: _Listed, weights: FloatArray, most: float) -> _Ways:
    """Return the ways of weighted cost at most `most` that covers of the halves of one mode make up.

    Raises
    ------
    TooManyError
        If there are too many pairs of covers.
    """
    devices, modes, places = [np.zeros((0, weights.size))], [np.zeros(0, dtype=np.int64)], [_NO_PLACES]
    for number, (_, covers) in enumerate(listed):
        first = covers[0].astype(np.float64)
        second = covers[1].astype(np.float64) if len(covers) > 1 else np.zeros((1, weights.size))
        if len(first) * len(second) > _MOST_PAIRS:
            raise TooManyError
        total = (first @ weights)[:, None] + (second @ weights)[None, :]
        one, other = np.nonzero(total <= most + 1e-9 * max(1.0, abs(most)))
        devices.append(first[one] + second[other])
        modes.append(np.full(one.size, number, dtype=np.int64))
        places.append(np.column_stack((one, other)))
    return _Ways(devices=np.concatenate(devices), mode=np.concatenate(modes), covers=np.concatenate(places))
