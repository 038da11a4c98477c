"""The integer program over covers: one mode per model, one cover for each half of it, within the devices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil

import numpy as np
from ortools.math_opt.python import mathopt

from cost_models.cost import FloatArray
from planner.search.fleet_columns import Column
from planner.search.fleet_covers import Half, IntArray
from planner.search.fleet_master import Chosen, Demand, Master, Mode
from planner.search.mip import exactly, row, solve_with_highs
from planner.search.scaling import choose_scale

_MOST_STEPS = 1_000_000


def common_step(unit: FloatArray) -> float:
    """Return the unit that all costs are whole multiples of; 0 where there is none worth using."""
    if not (unit > 0.0).any():
        return 0.0
    scale = choose_scale(unit.tolist(), most_steps=_MOST_STEPS)
    return scale.unit if scale.exact else 0.0


@dataclass(slots=True, kw_only=True)
class _HalfChoice:
    """The covers of one half with their variables."""

    half: Half
    covers: IntArray
    variables: list[mathopt.Variable]


@dataclass(slots=True, kw_only=True)
class _ModeChoice:
    """A mode with the variable that takes it."""

    taken: mathopt.Variable
    demand: Demand
    mode: Mode
    halves: list[_HalfChoice]


@dataclass(slots=True, kw_only=True)
class CoverProgram:
    """Built model by model; `step` is the common unit of all costs (0: none)."""

    master: Master
    unit: FloatArray
    step: float
    model: mathopt.Model = field(default_factory=mathopt.Model)
    _limits: list[mathopt.LinearConstraint] = field(default_factory=list[mathopt.LinearConstraint])
    _open: list[_ModeChoice] = field(default_factory=list[_ModeChoice])
    _models: list[list[_ModeChoice]] = field(default_factory=list[list[_ModeChoice]])

    def __post_init__(self) -> None:
        """Add the rows on devices."""
        self._limits.extend(row(self.model, high=own.limit) for own in self.master.rows)

    def add_mode(
        self, demand: Demand, mode: Mode, halves: Sequence[Half], covers: Sequence[IntArray]
    ) -> None:
        """Add a mode: exactly one cover of each half if the mode is taken."""
        if any(not len(listed) for listed in covers):
            return
        found = _ModeChoice(taken=self.model.add_binary_variable(), demand=demand, mode=mode, halves=[])
        for half, listed in zip(halves, covers, strict=True):
            one = row(self.model, low=0.0, high=0.0)
            one.set_coefficient(found.taken, -1.0)
            variables = [self._cover(cover, one) for cover in listed]
            found.halves.append(_HalfChoice(half=half, covers=listed, variables=variables))
        self._open.append(found)

    def close_model(self, *, needed: bool) -> None:
        """Say that one of the modes added since the last call is taken; none where none is `needed`."""
        if needed:
            exactly(self.model, [mode.taken for mode in self._open], 1.0)
        self._models.append(self._open)
        self._open = []

    def _cover(self, cover: IntArray, half: mathopt.LinearConstraint) -> mathopt.Variable:
        variable = self.model.add_binary_variable()
        half.set_coefficient(variable, 1.0)
        self.model.objective.set_linear_coefficient(variable, float(self.unit @ cover))
        for limit, own in zip(self._limits, self.master.rows, strict=True):
            used = float(np.dot(own.weights, cover))
            if used:
                limit.set_coefficient(variable, used)
        return variable

    def solve(self, seconds: float, gap: float) -> tuple[tuple[Chosen | None, ...], float] | None:
        """Return the choices and the bound of the best answer to a relative gap, None where there is none.

        Costs are multiples of their common unit: a bound within one of them is rounded up to it.
        """
        result = solve_with_highs(self.model, seconds, gap, self.step)
        if not result.has_primal_feasible_solution():
            return None
        bound = result.dual_bound()
        if self.step > 0.0:
            bound = self.step * ceil(bound / self.step - 1e-6)
        return tuple(self._choice(modes, result) for modes in self._models), bound

    @staticmethod
    def _choice(modes: Sequence[_ModeChoice], result: mathopt.SolveResult) -> Chosen | None:
        if not modes:
            return None
        best = max(modes, key=lambda mode: result.variable_values(mode.taken))
        counts: list[tuple[tuple[Column, int], ...]] = []
        for choice in best.halves:
            at = int(np.argmax(result.variable_values(choice.variables)))
            counts.append(tuple(choice.half.columns_of(choice.covers[at]).items()))
        return Chosen(mode=best.mode, counts=tuple(counts), served_rps=best.demand.rate_rps)
