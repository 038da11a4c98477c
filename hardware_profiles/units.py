"""Quantities with units: text such as ``3.35 TB/s`` to a float in base units, and back.

Base units are bytes, bytes/s, FLOP/s, seconds, watts, joules, USD, USD/hour, 1/s and plain counts.
Decimal prefixes (k, M, G, T, P, E) are powers of 1000, binary ones (Ki, Mi, Gi, Ti, Pi) powers of
1024. ``B`` is a byte and ``b`` or ``bit`` a bit; names of units are case-sensitive where case carries
meaning. Numbers are read exactly (as decimals) and rounded once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cache
from typing import Literal

from hardware_profiles.errors import ProfileError

Dimension = Literal[
    "bytes", "bytes_per_s", "flops_per_s", "time", "power", "energy", "usd", "usd_per_hour", "rate", "count"
]

_MAX_CHARS = 64
_MAX_EXPONENT = 30
_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5}
_NUMBER = re.compile(r"\s*([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)\s*(.*?)\s*\Z", re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """How a dimension is written: every accepted unit with its size, and those used for printing."""

    noun: str
    units: Mapping[str, Fraction]
    printed: tuple[str, ...]
    examples: str
    binary: tuple[str, ...] = ()

    @property
    def base(self) -> str:
        """The printed unit of size 1, "" if there is none."""
        return next((unit for unit in self.printed if self.units[unit] == 1), "")


def _prefixed(*names: str, binary: bool = False, size: Fraction = Fraction(1)) -> dict[str, Fraction]:
    units = {p + n: size * 10**exponent for n in names for p, exponent in _DECIMAL.items()}
    if binary:
        units |= {p + n: size * 1024**power for n in names for p, power in _BINARY.items()}
    return units


def _sized(names: str, size: str | int) -> dict[str, Fraction]:
    return dict.fromkeys(names.split(), Fraction(size))


_BYTES = _prefixed("B", binary=True) | _sized("byte bytes", 1)
_PER_SECOND = ("/s", "/sec", "/second")
_BIT = Fraction(1, 8)


def _bandwidth() -> dict[str, Fraction]:
    units = {unit + per: size for unit, size in _BYTES.items() for per in _PER_SECOND}
    bits = _prefixed("b", "bit", binary=True, size=_BIT)
    units |= {unit + per: size for unit, size in bits.items() for per in _PER_SECOND}
    return units | _prefixed("Bps") | _prefixed("bps", size=_BIT)


def _compute() -> dict[str, Fraction]:
    per_second = _prefixed(*(f"{name}{per}" for name in ("FLOP", "OP", "op", "flop") for per in _PER_SECOND))
    return per_second | _prefixed("FLOPS", "FLOPs", "flops", "OPS", "OPs")


def _money_per_hour() -> dict[str, Fraction]:
    money = ("USD", "usd", "$", "dollar", "dollars", "")
    hours = {f"{m}{per}": Fraction(1) for m in money for per in ("/h", "/hr", "/hour")}
    return (
        hours
        | {f"{m}/month": Fraction(1, 730) for m in money}
        | {f"{m}/year": Fraction(1, 8760) for m in money}
    )


def _rates() -> dict[str, Fraction]:
    nouns = ("", "req", "request", "requests", "rps")
    units = {noun + per: Fraction(1) for noun in nouns[:-1] for per in _PER_SECOND}
    for noun in nouns[:-1]:
        units |= {
            f"{noun}/min": Fraction(1, 60),
            f"{noun}/h": Fraction(1, 3600),
            f"{noun}/hour": Fraction(1, 3600),
        }
    return units | {"rps": Fraction(1), "qps": Fraction(1), "Hz": Fraction(1)}


_TIME = (
    _sized("s sec second seconds", 1)
    | _sized("ms msec", "1/1000")
    | _sized("us µs μs usec", "1/1000000")
    | _sized("ns", "1/1000000000")
    | _sized("min minute minutes", 60)
    | _sized("h hr hour hours", 3600)
    | _sized("d day days", 86400)
)
_ENERGY = _prefixed("J") | {"Wh": Fraction(3600), "kWh": Fraction(3_600_000), "MWh": Fraction(3_600_000_000)}


@cache
def _scales() -> dict[Dimension, _Scale]:
    def scale(noun: str, units: Mapping[str, Fraction], printed: str, examples: str) -> _Scale:
        binary = ("TiB", "GiB", "MiB", "KiB") if "GiB" in units else ()
        return _Scale(
            noun=noun, units=units, printed=tuple(printed.split()), examples=examples, binary=binary
        )

    bandwidth = "PB/s TB/s GB/s MB/s kB/s B/s"
    compute = "EFLOP/s PFLOP/s TFLOP/s GFLOP/s MFLOP/s FLOP/s"
    money = _sized("USD usd $ dollar dollars", 1) | {"kUSD": Fraction(1000)}
    return {
        "bytes": scale("a size", _BYTES, "PB TB GB MB kB B", "80 GB, 64 GiB, 512 MiB"),
        "bytes_per_s": scale("a bandwidth", _bandwidth(), bandwidth, "3.35 TB/s, 900 GB/s, 400 Gbit/s"),
        "flops_per_s": scale("a compute rate", _compute(), compute, "989 TFLOP/s, 1.8 PFLOP/s, 624 TOPS"),
        "time": scale("a time", _TIME, "s ms us ns", "1s, 30 ms, 2.5 us, 5 min"),
        "power": scale("a power", _prefixed("W"), "MW kW W", "700 W, 1.2 kW"),
        "energy": scale("an energy", _ENERGY, "MJ kJ J", "250 J, 1.5 kWh"),
        "usd": scale("an amount of money", money, "USD", "$30, 12.5 USD"),
        "usd_per_hour": scale("a price per hour", _money_per_hour(), "USD/h", "$2.5/h, 2.5 USD/h"),
        "rate": scale("a rate", _rates(), "/s", "8/s, 10 req/s, 600/min"),
        "count": scale("a count", _prefixed("") | {"": Fraction(1)}, "", "132, 4k"),
    }


def dimensions() -> tuple[Dimension, ...]:
    """Return every dimension that quantities are read in."""
    return tuple(_scales())


def parse_quantity(value: object, dimension: Dimension, *, allow_bare: bool = True) -> float:
    """Return a quantity in base units.

    Parameters
    ----------
    value
        Text with a unit, or a number, which counts as base units.
    dimension
        What kind of quantity is meant.
    allow_bare
        Whether a number without a unit is accepted.

    Raises
    ------
    ProfileError
        If it is no number, carries a unit of another dimension or none, is negative or not finite.
    """
    scale = _scales()[dimension]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ProfileError(f"expected {scale.noun}", value=value, allowed=scale.examples)
    number, unit = _split(value, scale)
    if unit is None and not allow_bare:
        raise ProfileError(f"{scale.noun} needs its unit", value=value, allowed=scale.examples)
    result = _float(number * (Fraction(1) if unit is None else _size(unit, value, dimension)))
    if not math.isfinite(result):
        raise ProfileError(f"{scale.noun} must be finite", value=value, allowed=scale.examples)
    if result < 0:
        raise ProfileError(f"{scale.noun} cannot be negative", value=value, allowed=scale.examples)
    return result


def _split(value: float | str, scale: _Scale) -> tuple[Fraction, str | None]:
    """Return the number and its unit; None stands for no unit at all."""
    if not isinstance(value, str):
        if isinstance(value, float) and not math.isfinite(value):
            raise ProfileError(f"{scale.noun} must be finite", value=value, allowed=scale.examples)
        return Fraction(value), None
    if len(value) > _MAX_CHARS:
        raise ProfileError(f"{scale.noun} of {len(value)} characters", allowed=scale.examples)
    text = value.strip()
    dollar = text.startswith("$")
    match = _NUMBER.match(text[1:] if dollar else text)
    if match is None:
        raise ProfileError(f"expected {scale.noun}", value=value, allowed=scale.examples)
    unit = ("$" if dollar else "") + re.sub(r"\s*/\s*", "/", match.group(2))
    return _number(match.group(1), value, scale), unit or None


def _number(text: str, value: object, scale: _Scale) -> Fraction:
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ProfileError(f"expected {scale.noun}", value=value, allowed=scale.examples) from None
    if number and abs(number.adjusted()) > _MAX_EXPONENT:
        raise ProfileError(f"{scale.noun} out of any sensible range", value=value, allowed=scale.examples)
    return Fraction(number)


def _float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _size(unit: str, value: object, dimension: Dimension) -> Fraction:
    scales = _scales()
    found = scales[dimension].units.get(unit)
    if found is not None:
        return found
    scale = scales[dimension]
    other = next((s.noun for name, s in scales.items() if name != dimension and unit in s.units), None)
    if other is not None:
        raise ProfileError(f"expected {scale.noun}, not {other}", value=value, allowed=scale.examples)
    near = sorted({name for name in scale.units if name.lower() == unit.lower()})
    hint = f"Did you mean {' or '.join(near)}?" if near else ""
    raise ProfileError(
        f"unknown unit {unit!r} for {scale.noun}", value=value, allowed=scale.examples, hint=hint
    )


def format_quantity(value: float, dimension: Dimension) -> str:
    """Return text that `parse_quantity` reads back as exactly `value`.

    The largest unit is chosen in which the number is at least 1 and its shortest decimal form
    still gives the value back (a binary unit where that is shorter); else base units with all digits.

    Raises
    ------
    ProfileError
        If the value is negative or not finite.
    """
    scale = _scales()[dimension]
    if not math.isfinite(value) or value < 0:
        raise ProfileError(f"{scale.noun} must be finite and not negative", value=value)
    texts = [_in_largest_unit(value, scale, scale.printed), _in_largest_unit(value, scale, scale.binary)]
    written = [text for text in texts if text is not None]
    return min(written, key=len) if written else f"{_plain(value)} {scale.base}".rstrip()


def _in_largest_unit(value: float, scale: _Scale, units: tuple[str, ...]) -> str | None:
    for unit in units:
        amount = float(Fraction(value) / scale.units[unit])
        if amount < 1.0 and unit != units[-1]:
            continue
        text = _shortest(amount, scale.units[unit], value)
        if text is not None:
            return f"{text}{unit}" if unit.startswith("/") else f"{text} {unit}"
    return None


def _shortest(amount: float, size: Fraction, value: float) -> str | None:
    for digits in range(1, 18):
        text = _plain(float(f"{amount:.{digits}g}"))
        if _float(Fraction(Decimal(text)) * size) == value:
            return text
    return None


def _plain(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
