"""The cluster shorthand: ``8xh200``, ``2x8xh100@ib400``, ``gb200-nvl72``, ``8xh100+4x8xl40s@eth100``.

Grammar::

    cluster := part ("+" part)*
    part    := [COUNT "x" [COUNT "x"]] NAME ["@" [COUNT "x"] LINK]

With one COUNT and the name of a device, it counts devices; with two, nodes and devices per node. With
the name of a node kind or of a cluster it counts those. The link after ``@`` is the network between
nodes; a count before it is the number of adapters of each node.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from hardware_profiles.cluster_file import MAX_DEVICES, MAX_GROUPS
from planner.errors import InputError

MAX_CHARS = 2000
ALLOWED = "8xh200, 2x8xh100 (nodes x devices), 4x8xh100@ib400, gb200-nvl72, 8xh100+8xh200, or a .yaml file"

_PART = re.compile(
    r"\s*(?:(?P<first>[+-]?[0-9.]+)\s*[xX*×]\s*)?(?:(?P<second>[+-]?[0-9.]+)\s*[xX*×]\s*)?"
    r"(?P<name>[A-Za-z][A-Za-z0-9._ -]{0,63}?)"
    r"\s*(?:@\s*(?:(?P<adapters>[0-9]+)\s*[xX*×]\s*)?(?P<link>[A-Za-z][A-Za-z0-9._-]{0,63}))?\s*\Z"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a shorthand; counts are None where they were not written."""

    text: str
    first: int | None
    second: int | None
    name: str
    link: str | None
    adapters: int | None


def split_shorthand(text: str, *, file: str | None = None) -> tuple[Part, ...]:
    """Return the parts of a shorthand.

    Raises
    ------
    InputError
        If it does not follow the grammar or a count is out of range.
    """
    if len(text) > MAX_CHARS:
        raise InputError("cluster description is too long", file=file, allowed=f"{MAX_CHARS} characters")
    if not text.strip():
        raise InputError("cluster description is empty", file=file, allowed=ALLOWED)
    pieces = text.split("+")
    if len(pieces) > MAX_GROUPS:
        raise InputError("too many parts in a cluster", file=file, allowed=f"at most {MAX_GROUPS}")
    return tuple(_part(piece, text, file) for piece in pieces)


def _part(piece: str, whole: str, file: str | None) -> Part:
    match = _PART.match(piece)
    if match is None:
        hint = None
        if re.search(r"[0-9]\s*[xX*×]\s*\Z", piece) or re.fullmatch(r"\s*[0-9]+\s*", piece):
            hint = "Name a device after the count."
        elif len(re.findall(r"[0-9]+\s*[xX*×]", piece)) > 2:
            hint = "At most two counts: nodes and devices per node."
        raise InputError(
            "not a cluster description",
            file=file,
            value=piece.strip() if piece.strip() else whole,
            allowed=ALLOWED,
            hint=hint,
        )
    return Part(
        text=piece.strip(),
        first=_count(match["first"], piece, file),
        second=_count(match["second"], piece, file),
        name=match["name"].strip(),
        link=match["link"],
        adapters=_count(match["adapters"], piece, file),
    )


def _count(text: str | None, piece: str, file: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,7}", text) or not 1 <= int(text) <= MAX_DEVICES:
        raise InputError(
            f"count {text[:20]!r} in a cluster",
            file=file,
            value=piece.strip(),
            allowed=f"whole numbers from 1 to {MAX_DEVICES}",
        )
    return int(text)
