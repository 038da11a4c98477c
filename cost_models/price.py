"""Money: what devices cost per hour, and per million tokens."""

from __future__ import annotations

from math import inf

_HOUR_S = 3600.0
_KILO = 1000.0


def usd_per_million_tokens(usd_per_hour: float, tokens_per_s: float) -> float:
    """Return the price of a million tokens at a steady rate; infinity when nothing is produced.

    Raises
    ------
    ValueError
        If a price or a rate is negative.
    """
    if usd_per_hour < 0.0 or tokens_per_s < 0.0:
        raise ValueError("prices and rates are not negative")
    if tokens_per_s == 0.0:
        return inf
    return usd_per_hour / (tokens_per_s * _HOUR_S) * 1e6


def energy_usd_per_hour(power_w: float, usd_per_kwh: float, *, facility_factor: float = 1.0) -> float:
    """Return the price of an hour of power; `facility_factor` (PUE) is what the building adds.

    Raises
    ------
    ValueError
        If a number is negative or the facility takes less than its load.
    """
    if power_w < 0.0 or usd_per_kwh < 0.0 or facility_factor < 1.0:
        raise ValueError("power and price are not negative, and a facility draws at least its load")
    return power_w * facility_factor / _KILO * usd_per_kwh
