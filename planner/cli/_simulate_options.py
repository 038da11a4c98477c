"""What ``newel simulate`` takes beside numbers: failures, stragglers and cache tiers in short forms."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from planner.errors import InputError

if TYPE_CHECKING:
    from hardware_profiles.units import Dimension
    from planner.simulate.serving_options import Failure, HostCache, Straggler

_MAX_FACTOR = 1e6
_REPLICA = r"(?P<pool>.+)/(?P<replica>\d{1,6})"


def failure(text: str) -> Failure:
    """Return the failure that POOL/REPLICA@TIME+TIME means.

    Raises
    ------
    InputError
        If the text is of another form.
    """
    from planner.simulate.serving_options import Failure

    found = _match(_REPLICA + r"@(?P<at>[^+]+)\+(?P<length>.+)", text, "--fail", "decode/0@60s+30s")
    return Failure(
        pool=found["pool"],
        replica=int(found["replica"]),
        at_s=_quantity(found["at"], "time", "--fail"),
        for_s=_quantity(found["length"], "time", "--fail"),
    )


def straggler(text: str) -> Straggler:
    """Return the straggler that POOL/REPLICA=FACTOR means.

    Raises
    ------
    InputError
        If the text is of another form, or the factor below 1.
    """
    from planner.simulate.serving_options import Straggler

    found = _match(_REPLICA + r"=(?P<factor>\d{1,9}(\.\d{1,9})?)", text, "--slow", "decode/0=1.5")
    factor = float(found["factor"])
    if not 1.0 <= factor <= _MAX_FACTOR:
        raise InputError(
            "a straggler takes longer, not shorter", key="--slow", value=text, allowed="1 to 1000000"
        )
    return Straggler(pool=found["pool"], replica=int(found["replica"]), factor=factor)


def tier(text: str) -> HostCache:
    """Return the cache tier that NAME=BYTES@BANDWIDTH means.

    Raises
    ------
    InputError
        If the text is of another form.
    """
    from planner.simulate.serving_options import HostCache

    found = _match(r"(?P<name>[\w-]+)=(?P<size>[^@]+)@(?P<speed>.+)", text, "--tier", "dram=500GiB@50GB/s")
    size = _quantity(found["size"], "bytes", "--tier")
    speed = _quantity(found["speed"], "bytes_per_s", "--tier")
    if size <= 0 or speed <= 0:
        raise InputError("a tier has room and bandwidth", key="--tier", value=text)
    return HostCache(name=found["name"], capacity_bytes=size, bytes_per_s=speed)


def _match(pattern: str, text: str, option: str, example: str) -> dict[str, str]:
    found = re.fullmatch(pattern, text)
    if found is None:
        raise InputError("this is not of the form it takes", key=option, value=text, allowed=example)
    return found.groupdict()


def _quantity(text: str, dimension: Dimension, option: str) -> float:
    from hardware_profiles.errors import ProfileError
    from hardware_profiles.units import parse_quantity

    try:
        return parse_quantity(text, dimension, allow_bare=False)
    except ProfileError as error:
        raise InputError(error.message, key=option, value=text, allowed=error.allowed) from None
