"""Measured loads of experts: how many tokens each expert of each layer got."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import cast

from planner.errors import InputError
from planner.frontend.yaml_source import read_text

MAX_BYTES = 64 * 1024 * 1024
MAX_EXPERTS = 4096
MAX_LAYERS = 512
_FORMS = "a list of counts, one list per layer, or {logical_count: [[...], ...]}"
Loads = tuple[tuple[float, ...], ...]


def read_expert_loads(path: Path) -> Loads:
    """Return tokens per layer and expert from a JSON file; recordings in steps are added up.

    Raises
    ------
    InputError
        If the file is none, or not of a known form.
    """
    try:
        data: object = json.loads(read_text(path, max_bytes=MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise InputError(f"this is no JSON: {error}", file=str(path)) from None
    if isinstance(data, dict):
        data = cast("dict[str, object]", data).get("logical_count")
    layers = _layers(data, str(path))
    if len({len(layer) for layer in layers}) != 1 or not 1 <= len(layers[0]) <= MAX_EXPERTS:
        raise InputError("all layers need as many experts", file=str(path), allowed=_FORMS)
    if len(layers) > MAX_LAYERS:
        raise InputError(f"more than {MAX_LAYERS} layers", file=str(path))
    return layers


def _layers(data: object, file: str) -> Loads:
    if not isinstance(data, list) or not data:
        raise InputError("no loads of experts", file=file, allowed=_FORMS)
    rows = cast("list[object]", data)
    if not isinstance(rows[0], list):
        return (_row(rows, file),)
    first = cast("list[object]", rows[0])
    if first and isinstance(first[0], list):
        steps = [_layers(step, file) for step in rows]
        if len({(len(step), len(step[0])) for step in steps}) != 1:
            raise InputError("all steps need as many layers and experts", file=file, allowed=_FORMS)
        return tuple(
            tuple(sum(step[k][e] for step in steps) for e in range(len(steps[0][k])))
            for k in range(len(steps[0]))
        )
    return tuple(_row(row, file) for row in rows)


def _row(row: object, file: str) -> tuple[float, ...]:
    if not isinstance(row, list) or not row:
        raise InputError("a layer is a list of counts", file=file, allowed=_FORMS)
    found: list[float] = []
    for value in cast("list[object]", row):
        if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value) or value < 0:
            raise InputError("a load is a number, 0 or more", file=file, value=value)
        found.append(float(value))
    return tuple(found)
