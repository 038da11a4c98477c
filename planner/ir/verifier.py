"""Checks the IR itself: every field has its declared type, and numbers that must be positive are.

Run on everything that is parsed, and between passes on request.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from functools import cache
from math import isclose, isnan
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from planner.ir.printer import is_node, node_fields
from planner.ir.workload import Lengths

_WEIGHT_TOLERANCE = 1e-6


def verify_ir(root: object) -> list[str]:
    """Return what is wrong with a tree, each with the path to it; empty if nothing is."""
    problems: list[str] = []
    seen: set[int] = set()
    for path, node in _nodes(root, type(root).__name__, seen):
        problems.extend(f"{path}: {problem}" for problem in (*type_problems(node), *_rule_problems(node)))
    return problems


def type_problems(node: object) -> list[str]:
    """Return the fields of one node whose values are not of their declared types."""
    if not is_dataclass(node):
        return []
    hints = _hints(type(node))
    return [
        f"{type(node).__name__}.{name} cannot be {_shortened(value)}"
        for name, value in node_fields(node).items()
        if not fits(value, hints[name])
    ]


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is of a declared type. An int may stand for a float; NaN never may."""
    if hint is Any or hint is object or isinstance(hint, TypeVar):
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    return _fits_generic(value, hint) if get_origin(hint) is not None else isinstance(value, hint)


def _fits_generic(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return any(value == allowed and type(value) is type(allowed) for allowed in arguments)
    if origin in {Union, types.UnionType}:
        return any(fits(value, option) for option in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _fits_tuple(cast("tuple[object, ...]", value), arguments)
    if origin is dict:
        return isinstance(value, dict) and all(
            fits(k, arguments[0]) and fits(v, arguments[1])
            for k, v in cast("dict[object, object]", value).items()
        )
    return isinstance(value, origin)


def _fits_tuple(values: tuple[object, ...], hints: Sequence[Any]) -> bool:
    if len(hints) == 2 and hints[1] is Ellipsis:
        return all(fits(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(fits(v, h) for v, h in zip(values, hints, strict=True))


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def _nodes(value: object, path: str, seen: set[int]) -> Iterator[tuple[str, object]]:
    """Yield every node of a tree once, with the path to it."""
    if is_node(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        yield path, value
        for name, child in node_fields(value).items():
            yield from _nodes(child, f"{path}.{name}", seen)
    elif isinstance(value, tuple | list):
        for index, child in enumerate(cast("Sequence[object]", value)):
            yield from _nodes(child, f"{path}[{index}]", seen)


def _rule_problems(node: object) -> list[str]:
    """Return broken rules that types cannot say: counts and degrees are positive, weights sum to 1."""
    problems = [
        f"{name} must not be negative"
        for name, value in (node_fields(node).items() if is_dataclass(node) else ())
        if name.endswith(("_bytes", "_s", "_w", "_usd")) and isinstance(value, int | float) and value < 0
    ]
    if isinstance(node, Lengths):
        if any(i < 1 or o < 1 or w <= 0 for i, o, w in node.samples):
            problems.append("lengths and weights must be positive")
        if not isclose(sum(w for _, _, w in node.samples), 1.0, abs_tol=_WEIGHT_TOLERANCE):
            problems.append("weights must sum to 1")
    return problems


def _shortened(value: object) -> str:
    """Return a value in a few words; never its whole repr, which shared nodes could make endless."""
    if is_node(value):
        return type(value).__name__
    if isinstance(value, tuple | list | dict):
        return f"a {type(cast('object', value)).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
