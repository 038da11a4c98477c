"""A profile file to plain data with line numbers, read event by event within limits.

Profiles are small tables; anchors, tags, duplicate keys, deep nesting and large files are refused, so
a hostile file can neither exhaust memory nor the stack. Scalars stay text unless they are plain
numbers or true / false.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import yaml

from hardware_profiles.errors import ProfileError

MAX_BYTES = 256 * 1024
MAX_DEPTH = 12
MAX_VALUES = 20_000

_INT = re.compile(r"[-+]?[0-9]{1,18}\Z")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?\Z")

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileFile:
    """Plain data of one file and the line of every value by its path."""

    file: str
    data: dict[str, object]
    lines: dict[KeyPath, int]


@dataclass(slots=True)
class _Open:
    """A mapping or list that is being read."""

    path: KeyPath
    container: dict[str, object] | list[object]
    key: str | None = None


@dataclass(slots=True)
class _Reader:
    file: str
    lines: dict[KeyPath, int] = field(default_factory=dict["KeyPath", int])
    stack: list[_Open] = field(default_factory=list["_Open"])
    root: object = None

    def fail(self, message: str, line: int, *, allowed: str = "") -> ProfileError:
        return ProfileError(message, file=self.file, line=line, allowed=allowed)

    def place(self, value: object, line: int) -> KeyPath | None:
        """Put a value where the reader stands; return its path, None if it was a key."""
        if not self.stack:
            self.root = value
            self.lines[()] = line
            return ()
        top = self.stack[-1]
        if isinstance(top.container, list):
            path = (*top.path, len(top.container))
            top.container.append(value)
        elif top.key is None:
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise self.fail("a key must be a word", line)
            if str(value) in top.container:
                raise self.fail(f"key {str(value)!r} stands twice", line)
            top.key = str(value)
            return None
        else:
            path = (*top.path, top.key)
            top.container[top.key] = value
            top.key = None
        self.lines[path] = line
        return path

    def open(self, container: dict[str, object] | list[object], line: int) -> None:
        path = self.place(container, line)
        if path is None or len(self.stack) >= MAX_DEPTH:
            raise self.fail("nested too deeply or a key that is no word", line, allowed=f"{MAX_DEPTH} levels")
        self.stack.append(_Open(path, container))


def read_profile_file(path: Path) -> ProfileFile:
    """Read the file at `path`.

    Raises
    ------
    ProfileError
        If it cannot be read, is too large, or is not a mapping in plain YAML.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise ProfileError("profile is too large", file=str(path), allowed=f"at most {MAX_BYTES} bytes")
        return parse_profile_text(raw.decode("utf-8-sig"), file=str(path))
    except FileNotFoundError:
        raise ProfileError("no such file", file=str(path)) from None
    except UnicodeDecodeError:
        raise ProfileError("not UTF-8 text", file=str(path)) from None
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", file=str(path)) from None


def parse_profile_text(text: str, *, file: str) -> ProfileFile:
    """Parse the text of a profile; `file` is its name in messages.

    Raises
    ------
    ProfileError
        If it is not a mapping in plain YAML or breaks a limit.
    """
    reader = _Reader(file)
    try:
        for number, event in enumerate(_events(text)):
            if number > MAX_VALUES:
                raise ProfileError("too many values", file=file, allowed=f"at most {MAX_VALUES}")
            _take(reader, event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(str(error.problem or error.context).split())
        raise ProfileError(
            f"not valid YAML: {problem}", file=file, line=mark.line + 1 if mark is not None else None
        ) from None
    except yaml.YAMLError as error:
        raise ProfileError(f"not valid YAML: {' '.join(str(error).split())}", file=file) from None
    if not isinstance(reader.root, dict):
        raise ProfileError("a profile is a table of keys", file=file)
    return ProfileFile(file=file, data=cast("dict[str, object]", reader.root), lines=reader.lines)


def _events(text: str) -> Iterator[Any]:
    loader = cast("Any", getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return cast("Iterator[Any]", yaml.parse(text, Loader=loader))


def _take(reader: _Reader, event: Any) -> None:
    line: int = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        raise reader.fail("anchors and aliases are not used in profiles", line)
    if isinstance(event, yaml.DocumentStartEvent) and reader.root is not None:
        raise reader.fail("more than one YAML document", line)
    if isinstance(event, yaml.ScalarEvent):
        scalar = cast("Any", event)
        if scalar.tag not in (None, "!"):
            raise reader.fail(f"tag {scalar.tag!r} is not used in profiles", line)
        reader.place(_value(scalar.value) if scalar.implicit[0] else scalar.value, line)
    elif isinstance(event, yaml.MappingStartEvent):
        reader.open({}, line)
    elif isinstance(event, yaml.SequenceStartEvent):
        reader.open([], line)
    elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
        reader.stack.pop()


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    if text in ("", "~", "null"):
        return None
    if _INT.match(text):
        return int(text)
    return float(text) if _FLOAT.match(text) else text
