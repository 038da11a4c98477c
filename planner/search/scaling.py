"""Integers for solvers: one unit per quantity, rounded in the safe direction, with the error stated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A unit that real numbers are counted in.

    Parameters
    ----------
    unit
        One integer step, in the quantity's own unit.
    exact
        Whether every value the scale was chosen for is a whole number of steps.
    """

    unit: float
    exact: bool

    def up(self, value: float) -> int:
        """Return the least number of steps that is at least `value`."""
        steps, whole = self._steps(value)
        return int(steps) if whole else math.ceil(steps)

    def down(self, value: float) -> int:
        """Return the greatest number of steps that is at most `value`."""
        steps, whole = self._steps(value)
        return int(steps) if whole else math.floor(steps)

    def nearest(self, value: float) -> int:
        """Return the number of steps closest to `value`, where nothing has to be safe."""
        return round(value / self.unit)

    def _steps(self, value: float) -> tuple[float, bool]:
        ratio = value / self.unit
        nearest = round(ratio)
        whole = math.isclose(ratio, nearest, rel_tol=1e-9)
        return (float(nearest) if whole else ratio), whole

    def value(self, steps: float) -> float:
        """Return what `steps` steps amount to."""
        return steps * self.unit


def choose_scale(values: Iterable[float], *, most_steps: int) -> Scale:
    """Return the coarsest exact scale, or an inexact one where that needs more than `most_steps` steps.

    The inexact one makes the largest relative error of rounding up, over values that matter (at
    least a hundredth of the largest), as small as it gets; ties go to the coarser unit.

    Raises
    ------
    ValueError
        If no value is positive or one is negative or not finite.
    """
    numbers = sorted({v for v in values if v != 0})
    if not numbers or numbers[0] < 0 or not math.isfinite(numbers[-1]):
        raise ValueError("a scale needs finite values, none negative, one positive")
    exact = _exact_unit(numbers)
    if exact is not None and numbers[-1] / exact <= most_steps * (1 + 1e-9):
        return Scale(unit=exact, exact=True)
    weighty = [v for v in numbers if v >= numbers[-1] / 100]
    best_error, best_unit = math.inf, numbers[-1] / most_steps
    for steps in range(1, most_steps + 1):
        for value in weighty[-3:]:
            unit = value / steps
            scale = Scale(unit=unit, exact=False)
            if numbers[-1] / unit > most_steps * (1 + 1e-9):
                continue
            error = max(scale.up(v) * unit / v - 1 for v in weighty)
            if error < best_error - 1e-12:
                best_error, best_unit = error, unit
    return Scale(unit=best_unit, exact=False)


def _exact_unit(numbers: list[float]) -> float | None:
    """Return the greatest common divisor of the numbers as they are written in decimal."""
    fractions = [Fraction(repr(v)) for v in numbers]
    scale = math.lcm(*(f.denominator for f in fractions))
    if scale > 10**15:
        return None
    divisor = math.gcd(*(int(f * scale) for f in fractions))
    return float(Fraction(divisor, scale))
