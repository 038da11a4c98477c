"""Slurm's host lists: ``gpu[01-08,12],login1`` to names."""

from __future__ import annotations

import re
from itertools import product

from planner.errors import InputError

MAX_HOSTS = 100_000

_PIECES = re.compile(r"\[([^\]\[]*)\]|([^\[\],]+)")
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?\Z")


def expand_hosts(text: str, *, file: str, line: int | None) -> tuple[str, ...]:
    """Return the names of a host list, in the order in which they are written.

    Raises
    ------
    InputError
        If brackets do not match, a range is no range, or there are more than `MAX_HOSTS` names.
    """
    names: list[str] = []
    for part in _split(text, file, line):
        names += _expand(part, file, line, MAX_HOSTS - len(names))
    return tuple(names)


def _split(text: str, file: str, line: int | None) -> list[str]:
    """Split at the commas outside brackets."""
    parts, depth, start = list[str](), 0, 0
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in (0, 1):
            raise InputError("brackets of a host list do not match", file=file, line=line, value=text)
        if char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    if depth:
        raise InputError("brackets of a host list do not match", file=file, line=line, value=text)
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


def _expand(part: str, file: str, line: int | None, room: int) -> list[str]:
    choices: list[list[str]] = []
    total = 1
    for match in _PIECES.finditer(part):
        bracket, plain = match.groups()
        found = [plain] if bracket is None else _numbers(bracket, part, file, line)
        total *= len(found)
        if total > room:
            raise InputError("too many hosts", file=file, line=line, value=part, allowed=f"{MAX_HOSTS}")
        choices.append(found)
    return ["".join(pieces) for pieces in product(*choices)]


def _numbers(bracket: str, part: str, file: str, line: int | None) -> list[str]:
    numbers: list[str] = []
    for item in bracket.split(","):
        match = _RANGE.match(item.strip())
        if match is None:
            raise InputError("not a range of a host list", file=file, line=line, value=part)
        first, last = match[1], match[2] or match[1]
        if not 0 <= int(last) - int(first) < MAX_HOSTS:
            raise InputError("not a range of a host list", file=file, line=line, value=part)
        numbers += [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    return numbers
