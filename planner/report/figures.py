"""Numbers with units as people read them: four digits, the prefix that fits."""

from __future__ import annotations

from planner.plan.schema import Quantity

_PREFIXES = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_TIMES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
_LONG_TIMES = ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "h"), (600.0, 60.0, "min"))
_SCALED_UNITS = {"bytes": "B", "B": "B", "W": "W", "J": "J", "FLOP/s": "FLOP/s"}


def figure(value: float | None, unit: str = "") -> str:
    """Return a value with its unit, e.g. ``30 ms``, ``141 GB``, ``12.5 USD/h``."""
    if value is None:
        return "-"
    if unit == "s":
        return _time(value)
    if unit in _SCALED_UNITS:
        return _scaled(value, _SCALED_UNITS[unit])
    number = _digits(value)
    return number if unit == "1" else f"{number} {unit}".rstrip()


def printable(text: str) -> str:
    """Return text of one line without control characters, which could play tricks on a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def interval(quantity: Quantity) -> str:
    """Return the 90 % interval of a quantity, or nothing where none is known."""
    if quantity.low is None or quantity.high is None:
        return ""
    return f"{figure(quantity.low, quantity.unit)} to {figure(quantity.high, quantity.unit)}"


def percent(share: float | None, *, signed: bool = False) -> str:
    """Return a share as a percentage; zero is written 0 %."""
    if share is None:
        return "-"
    text = f"{share * 100:+.3g}" if signed else f"{share * 100:.3g}"
    return f"{text.replace('+0', '0') if text in {'+0', '-0'} else text} %"


def _time(value: float) -> str:
    for least, size, name in _LONG_TIMES:
        if abs(value) >= least:
            return f"{_digits(value / size)} {name}"
    size, name = next(((s, n) for s, n in _TIMES if abs(value) >= s), _TIMES[-1])
    return "0 s" if value == 0 else f"{_digits(value / size)} {name}"


def _scaled(value: float, unit: str) -> str:
    size, prefix = next(((s, p) for s, p in _PREFIXES if abs(value) >= s), _PREFIXES[-1])
    return f"{_digits(value / size)} {prefix}{unit}"


def _digits(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e6:
        return str(int(value))
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
