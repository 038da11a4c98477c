"""Quantities of a spec (``30ms``, ``8/s``, ``10 kW``, ``30%``) in the units of the IR."""

from __future__ import annotations

from hardware_profiles.errors import ProfileError
from hardware_profiles.units import Dimension, parse_quantity
from planner.errors import InputError


def time_s(value: object) -> float:
    """Return a time, seconds. The unit must be written: a bare number could mean anything."""
    return _parsed(value, "time", allow_bare=False)


def rate_rps(value: object) -> float:
    """Return a request rate, requests per second (also what a bare number means)."""
    return _parsed(value, "rate")


def power_w(value: object) -> float:
    """Return a power, watts; the unit must be written."""
    return _parsed(value, "power", allow_bare=False)


def usd_per_hour(value: object) -> float:
    """Return money per hour, USD (also what a bare number means; the ``/h`` may be left out)."""
    bare = isinstance(value, str) and "/" not in value
    return _parsed(value, "usd" if bare else "usd_per_hour")


def share(value: object) -> float:
    """Return a share from 0 to 1, from a number or a percentage."""
    if isinstance(value, str) and value.rstrip().endswith("%"):
        found = _number(value.rstrip().removesuffix("%"), value) / 100
    else:
        found = _number(value, value)
    if not 0 <= found <= 1:
        raise InputError("not a share", value=value, allowed="0 to 1, or 0% to 100%")
    return found


def percentile(value: object) -> float:
    """Return a percentile from 50 to 99.9, or 0 for the mean; ``p99`` and ``mean`` are understood."""
    if value == "mean":
        return 0.0
    found = _number(
        value.lower().removeprefix("p").removesuffix("%") if isinstance(value, str) else value, value
    )
    if not 50 <= found <= 99.9:
        raise InputError("not a percentile", value=value, allowed="mean, or 50 to 99.9 such as 99 or p99")
    return found


def _number(text: object, value: object) -> float:
    try:
        return parse_quantity(text, "count")
    except ProfileError:
        raise InputError("expected a number", value=value) from None


def _parsed(value: object, dimension: Dimension, *, allow_bare: bool = True) -> float:
    try:
        return parse_quantity(value, dimension, allow_bare=allow_bare)
    except ProfileError as error:
        raise InputError(
            error.message, value=error.value, allowed=error.allowed or None, hint=error.hint or None
        ) from None
