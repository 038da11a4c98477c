"""Reads the text form of the IR (see planner.ir.printer) back into dataclasses.

The text may come from anyone: only classes of the IR and the facts on hardware are built, nesting and
size are limited, and every field's type is checked.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from enum import Enum
from functools import cache
from importlib import import_module
from typing import Any, cast

from planner.errors import InputError, nearest
from planner.ir.printer import HEADER, is_node
from planner.ir.verifier import type_problems

MAX_CHARS = 64 * 1024 * 1024
MAX_DEPTH = 60
MAX_RUN = 100_000
MAX_ITEMS = 5_000_000

_TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<number>[-+]?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|inf|nan)\b)"
    r"|(?P<ref>\#[0-9]{1,9}\b)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_.]*)"
    r"|(?P<mark>[{}\[\]:,=])"
    r"|(?P<space>\s+)"
    r"|(?P<wrong>.)"
)
_CONSTANTS: dict[str, object] = {"none": None, "true": True, "false": False}


def parse_ir(text: str, *, file: str | None = None) -> object:
    """Return the root of a text.

    Raises
    ------
    InputError
        If the text is not in the IR's form, names unknown classes or fields, or has a field of the
        wrong type; the line counts from the start of the text.
    """
    if len(text) > MAX_CHARS:
        raise InputError("IR text is too large", file=file, allowed=f"at most {MAX_CHARS} characters")
    header, _, body = text.partition("\n")
    if header.strip() != HEADER:
        raise InputError("not an IR text", file=file, line=1, value=header, allowed=HEADER)
    return _Reader(body=body, file=file).document()


@cache
def node_classes() -> dict[str, type]:
    """Return every class that may stand in a text, by name."""
    package = import_module("planner.ir")
    modules = [import_module(f"planner.ir.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    modules.append(import_module("hardware_profiles.schema"))
    modules.append(import_module("hardware_profiles.provenance"))
    found: dict[str, type] = {}
    for module in modules:
        for name, cls in inspect.getmembers(module, inspect.isclass):
            own = cls.__module__ == module.__name__ and not name.startswith("_")
            if own and (is_dataclass(cls) or hasattr(cls, "model_fields") or issubclass(cls, Enum)):
                if name in found:
                    raise RuntimeError(f"two classes of the IR are called {name}")
                found[name] = cls
    return found


@dataclass(slots=True, kw_only=True)
class _Reader:
    """A recursive-descent reader over the tokens; `position` counts characters of the body."""

    body: str
    file: str | None
    position: int = 0
    kind: str = ""
    token: str = ""
    token_start: int = 0
    num_items: int = 0
    shared: dict[str, object] = field(default_factory=dict[str, object])

    def document(self) -> object:
        """Return the root after reading the shared nodes before it."""
        self._next()
        while self.kind == "ref":
            name = self._take()
            if name in self.shared:
                raise self._error(f"{name} is defined twice")
            self._expect("=")
            node = self._value(0)
            if not is_node(node):
                raise self._error(f"{name} is no node; only nodes are shared")
            self.shared[name] = node
        if self._take() != "root":
            raise self._error("the root is missing")
        self._expect("=")
        root = self._value(0)
        if self.kind:
            raise self._error("text after the root")
        return root

    def _next(self) -> None:
        while self.position < len(self.body):
            match = _TOKEN.match(self.body, self.position)
            if match is None:
                break
            self.token_start, self.position = match.span()
            self.kind, self.token = match.lastgroup or "", match.group()
            if self.kind == "wrong":
                raise self._error("unexpected character")
            if self.kind != "space":
                return
        self.kind, self.token = "", ""

    def _take(self) -> str:
        token = self.token
        self._next()
        return token

    def _expect(self, mark: str) -> None:
        if self.token != mark or self.kind != "mark":
            raise self._error(f"expected {mark}")
        self._next()

    def _error(self, message: str, *, hint: str | None = None) -> InputError:
        line = self.body.count("\n", 0, self.token_start) + 2
        return InputError(f"IR text: {message}", file=self.file, line=line, value=self.token, hint=hint)

    def _value(self, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise self._error("nested too deeply")
        if self.kind == "mark" and self.token in "[{":
            return self._items(depth) if self.token == "[" else self._mapping(depth)
        if self.kind == "ref":
            if self.token not in self.shared:
                raise self._error("used before it is defined")
            return self.shared[self._take()]
        if self.kind in {"string", "number"}:
            return self._scalar()
        if self.kind == "word":
            return self._constant(depth)
        raise self._error("expected a value")

    def _scalar(self) -> object:
        kind, token = self.kind, self.token
        try:
            value: object = json.loads(token) if kind == "string" else _number(token)
        except ValueError:
            raise self._error("not a value") from None
        self._next()
        return value

    def _items(self, depth: int) -> tuple[object, ...]:
        self._expect("[")
        items: list[object] = []
        while self.token != "]" or self.kind != "mark":
            value = self._value(depth + 1)
            count = self._run()
            self._count(count)
            items.extend([value] * count)
            self._skip_comma()
        self._next()
        return tuple(items)

    def _run(self) -> int:
        if self.kind != "word" or self.token != "x":
            return 1
        self._next()
        length = self._take()
        if not length.isdigit() or not 1 <= int(length[:9]) <= MAX_RUN:
            raise self._error("a run has no such length")
        return int(length)

    def _count(self, num_items: int) -> None:
        self.num_items += num_items
        if self.num_items > MAX_ITEMS:
            raise self._error("too many values")

    def _mapping(self, depth: int) -> dict[str, object]:
        return self._entries(depth, key_kind="string")

    def _entries(self, depth: int, *, key_kind: str) -> dict[str, object]:
        self._expect("{")
        entries: dict[str, object] = {}
        while self.token != "}" or self.kind != "mark":
            if self.kind != key_kind:
                raise self._error("expected a key")
            key = str(self._scalar()) if key_kind == "string" else self._take()
            if key in entries:
                raise self._error(f"{key} stands twice")
            self._expect(":")
            entries[key] = self._value(depth + 1)
            self._count(1)
            self._skip_comma()
        self._next()
        return entries

    def _skip_comma(self) -> None:
        if self.kind == "mark" and self.token == ",":
            self._next()

    def _constant(self, depth: int) -> object:
        """Return a constant, a member of an enumeration or a node."""
        if self.token in _CONSTANTS:
            return _CONSTANTS[self._take()]
        name, _, member = self.token.partition(".")
        cls = node_classes().get(name)
        if cls is None:
            close = nearest(name, node_classes())
            raise self._error("unknown class", hint=f"Did you mean {close}?" if close else None)
        if issubclass(cls, Enum):
            if member not in cls.__members__:
                raise self._error("unknown member")
            self._next()
            return cls.__members__[member]
        start = self.token_start
        self._next()
        entries = self._entries(depth, key_kind="word")
        try:
            node = _built(cast("type[object]", cls), entries)
        except (TypeError, ValueError) as error:
            self.token_start, self.token = start, name
            raise self._error(" ".join(str(error).split())) from None
        problems = type_problems(node)
        if problems:
            self.token_start, self.token = start, name
            raise self._error(problems[0])
        return node


def _number(token: str) -> int | float:
    digits = token.lstrip("+-")
    if digits.isdigit():
        if len(digits) > 40:
            raise ValueError("absurdly long")
        return int(token)
    return float(token)


def _built(cls: type, entries: dict[str, object]) -> object:
    """Return the node of a class; pydantic models check their own fields."""
    if is_dataclass(cls):
        return cast("Callable[..., object]", cls)(**entries)
    return cast("Any", cls).model_validate(entries)
