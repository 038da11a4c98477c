"""Foreign JSON: objects, lists and numbers taken with an error that says where."""

from __future__ import annotations

import json
import math
from typing import cast

from planner.errors import InputError

JsonObject = dict[str, object]


def parse_json(text: str, *, file: str) -> object:
    """Return what a JSON text holds.

    Raises
    ------
    InputError
        If it is not JSON; the line is named.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"not valid JSON: {error.msg}", file=file, line=error.lineno) from None
    except (RecursionError, ValueError):
        raise InputError("not valid JSON: nested too deeply or a number too long", file=file) from None


def looks_like_json(text: str) -> object:
    """Return what a JSON text holds, None if it is none."""
    try:
        return parse_json(text, file="") if text.lstrip()[:1] in ("{", "[") else None
    except InputError:
        return None


def is_object(value: object) -> bool:
    """Whether the value is an object."""
    return isinstance(value, dict)


def as_object(value: object, *, file: str, key: str) -> JsonObject:
    """Return an object.

    Raises
    ------
    InputError
        If the value is none.
    """
    if not isinstance(value, dict):
        raise InputError("an object is expected", file=file, key=key, value=value)
    return cast("JsonObject", value)


def as_list(value: object, *, file: str, key: str) -> list[object]:
    """Return a list.

    Raises
    ------
    InputError
        If the value is none.
    """
    if not isinstance(value, list):
        raise InputError("a list is expected", file=file, key=key, value=value)
    return cast("list[object]", value)


def as_objects(value: object, *, file: str, key: str) -> list[JsonObject]:
    """Return a list of objects.

    Raises
    ------
    InputError
        If the value is none.
    """
    rows = as_list(value, file=file, key=key)
    return [as_object(row, file=file, key=f"{key}[{i}]") for i, row in enumerate(rows)]


def text_of(value: object) -> str:
    """Return a value as text: a string as it is, nothing for None, JSON otherwise."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def number_of(value: object) -> float | None:
    """Return a finite number that is not negative, None for anything else; text is converted."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
