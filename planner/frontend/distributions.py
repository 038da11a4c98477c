"""Length distributions as users write them: a number, or one of uniform, lognormal, histogram, mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import cast

from planner.errors import InputError
from planner.frontend.lengths import Points, fixed, histogram, lognormal_from, mixture, uniform

MAX_TOKENS = 100_000_000
_MAX_ENTRIES = 10_000
_STATISTICS = ("mean", "median", "p90", "p99", "sigma")

ALLOWED = (
    "a whole number of tokens, {uniform: [low, high]}, {lognormal: {mean: m, p90: q}}, "
    "{histogram: [[tokens, weight], ...]} or {mixture: [{weight: w, ...}, ...]}"
)


def distribution(value: object) -> Points:
    """Return the distribution that `value` stands for.

    Raises
    ------
    InputError
        If it stands for none.
    """
    if isinstance(value, Mapping):
        entries = cast("Mapping[str, object]", value)
        if len(entries) != 1 or (name := next(iter(entries))) not in _READERS:
            raise InputError("not a distribution of lengths", value=dict(entries), allowed=ALLOWED)
        try:
            return _READERS[name](entries[name])
        except ValueError as error:
            raise InputError(f"{name}: {error}", value=entries[name]) from None
    return fixed(tokens(value))


def tokens(value: object) -> int:
    """Return a positive whole number of tokens.

    Raises
    ------
    InputError
        If `value` is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_TOKENS:
        raise InputError("not a number of tokens", value=value, allowed=ALLOWED)
    return value


def weight(value: object) -> float:
    """Return a weight, zero or more.

    Raises
    ------
    InputError
        If `value` is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
        raise InputError("not a weight", value=value, allowed="a number, zero or more")
    return value


def _uniform(value: object) -> Points:
    low, high = _list(value, "[low, high]", length=2)
    if tokens(low) > tokens(high):
        raise InputError("uniform: low is above high", value=value)
    return uniform(tokens(low), tokens(high))


def _lognormal(value: object) -> Points:
    entries = _mapping(value, (*_STATISTICS, "max"))
    longest = tokens(entries["max"]) if "max" in entries else None
    given = {name: _statistic(name, entries[name]) for name in _STATISTICS if name in entries}
    points = lognormal_from(given, longest=longest)
    if points[-1][0] > MAX_TOKENS:
        raise InputError("lognormal: the tail is absurdly long; state max", value=value)
    return points


def _statistic(name: str, value: object) -> float:
    number = weight(value)
    lowest = 0.0 if name == "sigma" else 1.0
    highest = 10.0 if name == "sigma" else MAX_TOKENS
    if not lowest <= number <= highest:
        raise InputError(f"lognormal: {name} is out of range", value=value, allowed=f"{lowest} to {highest}")
    return number


def _histogram(value: object) -> Points:
    rows = [_list(row, "[tokens, weight]", length=2) for row in _list(value, "[[tokens, weight], ...]")]
    return histogram((tokens(count), weight(share)) for count, share in rows)


def _mixture(value: object) -> Points:
    parts: list[tuple[float, Points]] = []
    for part in _list(value, "[{weight: w, ...}, ...]"):
        entries = dict(_mapping(part, ("weight", "tokens", *_READERS)))
        share = weight(entries.pop("weight", 1.0))
        rest: object = entries["tokens"] if "tokens" in entries and len(entries) == 1 else entries
        parts.append((share, distribution(rest)))
    return mixture(parts)


def _list(value: object, form: str, *, length: int | None = None) -> list[object]:
    found: list[object] = cast("list[object]", value) if isinstance(value, list) else []
    if not found or len(found) > _MAX_ENTRIES or (length is not None and len(found) != length):
        raise InputError("not a list of the right form", allowed=form)
    return found


def _mapping(value: object, names: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise InputError("must be a mapping", value=value, allowed=", ".join(names))
    found = cast("Mapping[str, object]", value)
    unknown = next((name for name in found if name not in names), None)
    if unknown is not None:
        raise InputError(f"unknown key {unknown!r}", allowed=", ".join(names))
    return found


_READERS: Mapping[str, Callable[[object], Points]] = {
    "uniform": _uniform,
    "lognormal": _lognormal,
    "histogram": _histogram,
    "mixture": _mixture,
}
