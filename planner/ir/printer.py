"""The text form of the IR: any tree of its dataclasses as readable text, which the parser reads back.

Every field is written, in the order of declaration, so that a text keeps its meaning when a default
changes. A node that occurs more than once is written once, ahead of the root, under a number, and
referred to by it; a run of equal items is written once with its length. Facts on hardware are
pydantic models and print like nodes. ::

    newel-ir 1
    #1 = Layer {
      kind: "attention+mlp"
      ops: [...]
    }
    root = Problem {
      kind: "serving"
      payload: ServingProblem {
        model: ModelGraph {
          layers: [#1 x 80]
          ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from itertools import groupby
from typing import Any, cast

HEADER = "newel-ir 1"

_INDENT = "  "
_MAX_LINE = 100
_MIN_SHARED_FIELDS = 3


def print_ir(root: object) -> str:
    """Return the text form of a dataclass tree.

    Raises
    ------
    TypeError
        If the tree holds something that has no text form (an array, a set).
    """
    table = _Table()
    top = table.intern(root)
    shared = {
        number: position
        for position, number in enumerate(
            (n for n in range(len(table.entries)) if table.is_shared(n)), start=1
        )
        if number != top
    }
    lines = [HEADER]
    for number, position in shared.items():
        lines.append(f"#{position} = {_entry_text(table, number, shared, 0)}")
    lines.append(f"root = {_entry_text(table, top, shared, 0)}")
    return "\n".join(lines) + "\n"


def is_node(value: object) -> bool:
    """Return whether a value prints as a node: a dataclass instance or a pydantic model."""
    return not isinstance(value, type) and (is_dataclass(value) or hasattr(type(value), "model_fields"))


def node_fields(node: object) -> dict[str, object]:
    """Return {name: value} of a node's fields, in order of declaration."""
    if is_dataclass(node):
        return {f.name: getattr(node, f.name) for f in fields(node) if f.init}
    names = cast("Mapping[str, object]", cast("Any", type(node)).model_fields)
    return {name: getattr(node, name) for name in names}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """An interned value. `children` are (label, number): field names, mapping keys, or "" for items."""

    kind: str
    name: str = ""
    children: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True, kw_only=True)
class _Table:
    """Values by structure: equal values of equal type have one number; children come before parents."""

    entries: list[_Entry] = field(default_factory=list[_Entry])
    uses: list[int] = field(default_factory=list[int])
    numbers: dict[_Entry, int] = field(default_factory=dict[_Entry, int])
    by_identity: dict[int, int] = field(default_factory=dict[int, int])

    def intern(self, value: object) -> int:
        """Return the number of a value, which must stay alive while the table is in use."""
        if is_node(value) and id(value) in self.by_identity:
            return self.by_identity[id(value)]
        entry = self._entry(value)
        number = self.numbers.get(entry)
        if number is None:
            number = len(self.entries)
            self.numbers[entry] = number
            self.entries.append(entry)
            self.uses.append(0)
            for _, child in entry.children:
                self.uses[child] += 1
        if is_node(value):
            self.by_identity[id(value)] = number
        return number

    def is_shared(self, number: int) -> bool:
        """Return whether a value is worth a number of its own in the text."""
        entry = self.entries[number]
        return entry.kind == "node" and self.uses[number] > 1 and len(entry.children) >= _MIN_SHARED_FIELDS

    def _entry(self, value: object) -> _Entry:
        if is_node(value):
            children = tuple((name, self.intern(child)) for name, child in node_fields(value).items())
            return _Entry(kind="node", name=type(value).__name__, children=children)
        if isinstance(value, tuple | list):
            items = cast("Sequence[object]", value)
            return _Entry(kind="items", children=tuple(("", self.intern(item)) for item in items))
        if isinstance(value, dict):
            entries = cast("dict[object, object]", value)
            return _Entry(
                kind="mapping", children=tuple((_scalar_text(k), self.intern(v)) for k, v in entries.items())
            )
        return _Entry(kind="scalar", name=_scalar_text(value))


def _scalar_text(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return f"{type(value).__name__}.{value.name}"
    if type(value) is int or type(value) is float:
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    raise TypeError(f"the IR has no text form for {type(value).__name__}: {value!r}")


def _text(table: _Table, number: int, shared: Mapping[int, int], depth: int) -> str:
    return f"#{shared[number]}" if number in shared else _entry_text(table, number, shared, depth)


def _entry_text(table: _Table, number: int, shared: Mapping[int, int], depth: int) -> str:
    """Return an entry's text: on one line where it is short and flat, else one child per line."""
    entry = table.entries[number]
    if entry.kind == "scalar":
        return entry.name
    parts: list[str] = []
    for (label, child), run in groupby(entry.children):
        count = len(list(run))
        text = _text(table, child, shared, depth + 1)
        labelled = f"{label}: {text}" if entry.kind != "items" else text
        parts.append(labelled if count == 1 else f"{labelled} x {count}")
    opening, closing = ("[", "]") if entry.kind == "items" else ("{", "}")
    head = f"{entry.name} {opening}" if entry.name else opening
    flat = ", ".join(parts)
    if "\n" not in flat and len(head) + len(flat) + len(_INDENT) * depth <= _MAX_LINE:
        return f"{head}{flat}{closing}"
    inner = _INDENT * (depth + 1)
    return "\n".join([head, *(inner + part for part in parts), _INDENT * depth + closing])
