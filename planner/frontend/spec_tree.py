"""A spec as plain data that knows where each value was written: in which file and line, or by which flag."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypeVar, cast

from planner.errors import InputError
from planner.frontend.yaml_source import KeyPath, dotted, read_document, read_text
from planner.ir.problem import InputDigest

_MAX_INPUT_BYTES = 512 * 1024 * 1024

PlaceT = TypeVar("PlaceT")


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """A value that replaces or adds to the spec: from a flag, or from another phase that re-plans."""

    path: KeyPath
    value: object
    origin: str


@dataclass(slots=True, kw_only=True)
class SpecTree:
    """The data of a spec with the places of its values, and the inputs read on its behalf."""

    data: dict[str, object]
    file: str | None
    base_dir: Path
    lines: dict[KeyPath, int] = field(default_factory=dict[KeyPath, int])
    origins: dict[KeyPath, str] = field(default_factory=dict[KeyPath, str])
    digests: list[InputDigest] = field(default_factory=list[InputDigest])

    def error(
        self,
        message: str,
        path: KeyPath,
        *,
        value: object = ...,
        allowed: str | None = None,
        hint: str | None = None,
    ) -> InputError:
        """Return an error about the value at `path`."""
        found = InputError(message, value=value, allowed=allowed, hint=hint)
        return self.located(found, path)

    def located(self, error: InputError, path: KeyPath) -> InputError:
        """Return an error with the place of `path` filled in where it names none."""
        if error.file is not None and error.file != self.file:
            return error if error.line is not None else error.located(key=dotted(path) or None)
        origin = self._nearest(path, self.origins)
        if origin is not None:
            return error.located(key=origin if not path[1:] else f"{origin} ({dotted(path)})")
        return error.located(file=self.file, line=self._nearest(path, self.lines), key=dotted(path) or None)

    def path_of(self, text: str, path: KeyPath) -> Path:
        """Return a file that the spec names: relative to its folder, or from a flag to the current one."""
        from_flag = self._nearest(path, self.origins) is not None
        return Path(text) if from_flag else self.base_dir / text

    def source_of(self, path: KeyPath) -> str | None:
        """Return the file that the value at `path` stands in; None where it is from a flag or from data."""
        return self.file if self._nearest(path, self.origins) is None else None

    def lines_below(self, path: KeyPath) -> dict[KeyPath, int]:
        """Return the lines of the values below `path`, by their path from there."""
        return {key[len(path) :]: line for key, line in self.lines.items() if key[: len(path)] == path}

    def add_file_digest(self, role: str, path: Path) -> None:
        """Record that the answer rests on a file.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        digest = sha256(read_text(path, max_bytes=_MAX_INPUT_BYTES).encode())
        self.digests.append(InputDigest(role=role, name=path.name, sha256=digest.hexdigest()))

    def add_data_digest(self, role: str, name: str, data: object) -> None:
        """Record that the answer rests on plain data."""
        text = json.dumps(data, sort_keys=True, ensure_ascii=True)
        self.digests.append(InputDigest(role=role, name=name, sha256=sha256(text.encode()).hexdigest()))

    def _nearest(self, path: KeyPath, places: Mapping[KeyPath, PlaceT]) -> PlaceT | None:
        for length in range(len(path), -1, -1):
            if path[:length] in places:
                return places[path[:length]]
        return None


def spec_from_file(path: Path) -> SpecTree:
    """Return the spec in a YAML or JSON file.

    Raises
    ------
    InputError
        If the file cannot be read or holds no mapping.
    """
    document = read_document(path)
    if not isinstance(document.data, dict):
        raise InputError(
            "a spec must be a mapping of keys to values", file=str(path), line=1, value=document.data
        )
    data = cast("dict[str, object]", document.data)
    return SpecTree(data=data, file=str(path), base_dir=path.parent, lines=document.lines)


def spec_from_mapping(values: Mapping[str, object]) -> SpecTree:
    """Return a spec given as data; relative paths in it are relative to the current folder.

    Raises
    ------
    InputError
        If it holds anything but plain data.
    """
    return SpecTree(data=cast("dict[str, object]", plain_data(values)), file=None, base_dir=Path())


def override(tree: SpecTree, changes: Sequence[Override]) -> None:
    """Set the values of `changes` in the tree, in order.

    Raises
    ------
    InputError
        If a change would go below a value that is no mapping.
    """
    for change in changes:
        here = tree.data
        for depth, part in enumerate(change.path[:-1]):
            child = here.setdefault(str(part), {})
            if not isinstance(child, dict):
                path = change.path[: depth + 1]
                message = f"{change.origin} cannot be set because this is not a mapping"
                raise tree.error(message, path, value=child)
            here = cast("dict[str, object]", child)
        here[str(change.path[-1])] = change.value
        tree.origins[change.path] = change.origin


def plain_data(value: object, *path: str | int) -> object:
    """Return plain data: mappings, lists and scalars; tuples and paths are taken for lists and text.

    Raises
    ------
    InputError
        If `value`, which stands at `path` of a spec, holds anything else or is nested too deeply.
    """
    if len(path) > 40:
        raise InputError("nested too deeply", key=dotted(path[:3]))
    if isinstance(value, Mapping):
        items = cast("Mapping[object, object]", value).items()
        return {str(key): plain_data(child, *path, str(key)) for key, child in items}
    if isinstance(value, list | tuple):
        children = cast("Sequence[object]", value)
        return [plain_data(child, *path, index) for index, child in enumerate(children)]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise InputError("not plain data", key=dotted(path) or None, value=value)
