"""YAML and JSON text to plain data that remembers where each value stood.

The text may come from anyone. It is read event by event, without recursion, into None, bool, int,
float, str, list and dict only; size, depth, number of values (aliases expanded) and length of
integers are limited, and duplicate keys are refused. Scalars follow the YAML 1.2 core schema:
``on`` and ``12:30`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from planner.errors import InputError

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 40
MAX_VALUES = 200_000
_MAX_INTEGER_CHARS = 40

KeyPath = tuple[str | int, ...]

_NULL = re.compile(r"(?:~|null|Null|NULL|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_INF = re.compile(r"([-+]?)\.(?:inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(?:nan|NaN|NAN)\Z")
_TYPED_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))
_CORE_TAGS = _TYPED_TAGS | {f"tag:yaml.org,2002:{name}" for name in ("str", "map", "seq")} | {"!"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Plain data and the line (from 1) of every value, by its path of keys and indices."""

    data: object
    lines: dict[KeyPath, int]


@dataclass(slots=True, kw_only=True)
class _Node:
    """A value under construction; `items` holds children, keys and values alternating in a mapping."""

    kind: str
    line: int
    value: object = None
    items: list[_Node] = field(default_factory=list["_Node"])
    anchor: str = ""
    num_values: int = 1
    height: int = 1


def read_document(path: Path) -> Document:
    """Read the file at `path`.

    Raises
    ------
    InputError
        If it cannot be read, is too large, or is not plain YAML or JSON.
    """
    return parse_document(read_text(path, max_bytes=MAX_BYTES), file=str(path))


def read_text(path: Path, *, max_bytes: int) -> str:
    """Return the text of a regular file of at most `max_bytes` bytes.

    Raises
    ------
    InputError
        If it does not exist, is no regular file, is too large, or is not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError("not a regular file", file=str(path))
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError("no such file", file=str(path)) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", file=str(path)) from None
    if len(raw) > max_bytes:
        raise InputError("file is too large", file=str(path), allowed=f"at most {max_bytes} bytes")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8 text", file=str(path), line=line) from None


def parse_document(text: str, *, file: str) -> Document:
    """Parse `text`; `file` is its name in messages.

    Raises
    ------
    InputError
        If the text is not plain YAML or breaks a limit.
    """
    if len(text) > MAX_BYTES:
        raise InputError("file is too large", file=file, allowed=f"at most {MAX_BYTES} bytes")
    try:
        root = _tree(text, file)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context or "cannot be parsed").split())
        # A text that ends too early is reported past its end: name its last line instead.
        line = min(mark.line, text.rstrip().count("\n")) + 1 if mark is not None else None
        raise InputError(f"not valid YAML: {problem}", file=file, line=line) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}", file=file) from None
    lines: dict[KeyPath, int] = {}
    return Document(data=_plain(root, (), lines, file), lines=lines)


def parse_scalar(text: str) -> object:
    """Return what the plain YAML scalar `text` stands for (a flag's value, for instance).

    Raises
    ------
    InputError
        If it is an integer of absurd length.
    """
    return _plain_scalar(text.strip(), file="", line=0)


def _events(text: str) -> Iterator[Any]:
    loader = cast("Any", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return cast("Iterator[Any]", yaml.parse(text, Loader=loader))


def _tree(text: str, file: str) -> _Node:
    """Build the tree of nodes; aliases share the node of their anchor."""
    stack: list[_Node] = []
    anchors: dict[str, _Node] = {}
    top = _Node(kind="sequence", line=1)
    for event in _events(text):
        if isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            node = stack.pop()
        else:
            node = _opened(event, anchors, file)
            if node is None:
                continue
            (stack[-1] if stack else top).items.append(node)
            if len(top.items) > 1:
                raise InputError("more than one YAML document", file=file, line=node.line)
            if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
                stack.append(node)
                _check_depth(len(stack), node, file)
                continue
        _count(stack[-1] if stack else top, node, file)
        # An anchor counts from its end on, so that no value can contain itself.
        anchors[node.anchor] = node
    return top.items[0] if top.items else _Node(kind="scalar", line=1)


def _count(parent: _Node, child: _Node, file: str) -> None:
    """Add the child's values, aliases expanded, to the parent's."""
    parent.num_values += child.num_values
    parent.height = max(parent.height, child.height + 1)
    _check_depth(parent.height - 1, child, file)
    if parent.num_values > MAX_VALUES:
        raise InputError("too many values", file=file, line=child.line, allowed=f"at most {MAX_VALUES}")


def _check_depth(depth: int, node: _Node, file: str) -> None:
    if depth > MAX_DEPTH:
        raise InputError("nested too deeply", file=file, line=node.line, allowed=f"{MAX_DEPTH} levels")


def _opened(event: Any, anchors: dict[str, _Node], file: str) -> _Node | None:
    """Return the node that an event opens, None for events that open none."""
    line: int = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent):
        name = _anchor(event)
        if name not in anchors:
            raise InputError(f"alias *{name} has no anchor before it", file=file, line=line)
        return anchors[name]
    if isinstance(event, yaml.ScalarEvent | yaml.MappingStartEvent | yaml.SequenceStartEvent):
        tag: str | None = cast("Any", event).tag
        if tag is not None and tag not in _CORE_TAGS:
            raise InputError("only plain YAML types are read", file=file, line=line, value=tag)
    if isinstance(event, yaml.MappingStartEvent):
        return _Node(kind="mapping", line=line, anchor=_anchor(event))
    if isinstance(event, yaml.SequenceStartEvent):
        return _Node(kind="sequence", line=line, anchor=_anchor(event))
    if isinstance(event, yaml.ScalarEvent):
        scalar = cast("Any", event)
        text = str(scalar.value)
        plain = bool(scalar.implicit[0]) or scalar.tag in _TYPED_TAGS
        value = _plain_scalar(text, file=file, line=line) if plain else text
        return _Node(kind="scalar", line=line, value=value, anchor=_anchor(event))
    return None


def _anchor(event: object) -> str:
    return str(getattr(event, "anchor", None) or "")


def _plain_scalar(text: str, *, file: str, line: int) -> object:
    if _NULL.match(text):
        return None
    if _BOOL.match(text):
        return text.lower() == "true"
    if _INT.match(text):
        if len(text) > _MAX_INTEGER_CHARS:
            raise InputError("integer is absurdly long", file=file or None, line=line or None, value=text)
        return int(text)
    if _FLOAT.match(text):
        return float(text)
    if infinite := _INF.match(text):
        return float(f"{infinite.group(1)}inf")
    return float("nan") if _NAN.match(text) else text


def _plain(node: _Node, path: KeyPath, lines: dict[KeyPath, int], file: str) -> object:
    """Return the plain data of a node (depth is limited by now) and note the lines."""
    lines[path] = node.line
    if node.kind == "scalar":
        return node.value
    if node.kind == "sequence":
        return [_plain(item, (*path, index), lines, file) for index, item in enumerate(node.items)]
    result: dict[str, object] = {}
    for key_node, value_node in zip(node.items[::2], node.items[1::2], strict=True):
        key = _key(key_node, path, file)
        if key in result:
            raise InputError("key stands twice", file=file, line=key_node.line, key=dotted((*path, key)))
        result[key] = _plain(value_node, (*path, key), lines, file)
        lines[*path, key] = key_node.line
    return result


def _key(node: _Node, path: KeyPath, file: str) -> str:
    if node.kind != "scalar" or node.value is None:
        raise InputError("a key must be a word", file=file, line=node.line, key=dotted(path) or None)
    if node.value == "<<":
        raise InputError("merge keys (<<) are not supported; repeat the keys", file=file, line=node.line)
    if isinstance(node.value, bool):
        return "true" if node.value else "false"
    return str(node.value)


def dotted(path: KeyPath) -> str:
    """Return a path in words, e.g. ``workload.lengths[2].weight``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
