"""Profiles by name: shipped folders, and folders of the user's own that come before them.

A profile is one file `<kind>/<name>.yaml`. It is found by its file name or by an entry of its
`aliases`; spelling is forgiving in case and in ``_`` against ``-``. Only the file that is asked for
is parsed; aliases are found by scanning the `aliases:` line of the files. Folders named in the
environment variable NEWEL_PROFILES (separated like PATH) come first, later ones after them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar, cast

from pydantic import BaseModel, ValidationError

from hardware_profiles.errors import ProfileError
from hardware_profiles.profile_file import KeyPath, ProfileFile, read_profile_file
from hardware_profiles.schema import DeviceProfile, LinkProfile, NodeProfile, PriceList

ProfileKind = Literal["devices", "links", "nodes", "clusters", "prices"]

ENVIRONMENT_VARIABLE = "NEWEL_PROFILES"
_SHIPPED = Path(__file__).parent
_ALIASES = re.compile(r"^aliases:\s*\[([^\]]*)\]", re.M)
_MAX_SCANNED_CHARS = 4096
_MAX_FILES = 2000
_NOUNS = {
    "devices": "device",
    "links": "link",
    "nodes": "node",
    "clusters": "cluster",
    "prices": "price list",
}

ModelT = TypeVar("ModelT", bound=BaseModel)


class UnknownProfileError(ProfileError):
    """No profile of that name; `nearest` is the closest one, "" if none is close."""

    def __init__(self, kind: ProfileKind, name: str, known: Sequence[str], nearest: str) -> None:
        self.known = tuple(known)
        self.nearest = nearest
        shown = ", ".join(known[:60]) + (", ..." if len(known) > 60 else "")
        hint = f"Did you mean {nearest!r}?" if nearest else "See `newel profiles list`."
        super().__init__(f"unknown {_NOUNS[kind]}", value=name, allowed=shown, hint=hint)


def canonical(name: str) -> str:
    """Return the spelling that names are compared in: lower case, dashes for `_` and spaces."""
    return re.sub(r"[\s_]+", "-", name.strip().lower())


def profile_folders(extra: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the folders that are searched, first come first served: `extra`, the environment's, ours."""
    listed = os.environ.get(ENVIRONMENT_VARIABLE, "")
    return (*extra, *(Path(part) for part in listed.split(os.pathsep) if part), _SHIPPED)


def load_device(name: str, *, folders: Sequence[Path] = ()) -> DeviceProfile:
    """Return the device called `name`; `folders` are searched before all others.

    Raises
    ------
    ProfileError
        If no device has that name or its file is wrong.
    """
    return _load("devices", name, DeviceProfile, folders)


def load_link(name: str, *, folders: Sequence[Path] = ()) -> LinkProfile:
    """Return the link called `name`.

    Raises
    ------
    ProfileError
        If no link has that name or its file is wrong.
    """
    return _load("links", name, LinkProfile, folders)


def load_node(name: str, *, folders: Sequence[Path] = ()) -> NodeProfile:
    """Return the node kind called `name`.

    Raises
    ------
    ProfileError
        If no node kind has that name or its file is wrong.
    """
    return _load("nodes", name, NodeProfile, folders)


def load_price_list(name: str, *, folders: Sequence[Path] = ()) -> PriceList:
    """Return the price list called `name`.

    Raises
    ------
    ProfileError
        If no price list has that name or its file is wrong.
    """
    return _load("prices", name, PriceList, folders)


def profile_names(kind: ProfileKind, *, folders: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return the names (not the aliases) of all profiles of a kind, sorted."""
    return tuple(sorted({path.stem for path in profile_paths(kind, folders=folders)}))


def profile_paths(kind: ProfileKind, *, folders: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Return the files of a kind, in the order in which they are searched."""
    return tuple(path for folder in profile_folders(folders) for path in _files(folder / kind))


def find_profile(kind: ProfileKind, name: str, *, folders: Sequence[Path] = ()) -> Path:
    """Return the file of the profile called `name`.

    Raises
    ------
    UnknownProfileError
        If there is none.
    """
    wanted = canonical(name)
    for folder in profile_folders(folders):
        found = _index(folder / kind).get(wanted)
        if found is not None:
            return found
    known = profile_names(kind, folders=folders)
    spellings = {s: s for s in known} | {
        alias: path.stem
        for folder in profile_folders(folders)
        for alias, path in _index(folder / kind).items()
    }
    close = get_close_matches(wanted[:100], list(spellings), n=1, cutoff=0.5)
    raise UnknownProfileError(kind, name[:100], known, spellings[close[0]] if close else "")


def validate_profile(model: type[ModelT], document: ProfileFile) -> ModelT:
    """Return the profile that a file holds.

    Raises
    ------
    ProfileError
        If it does not match the schema: file, line, key and value of the first mistake.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise _first_mistake(error, document) from None


def _load(kind: ProfileKind, name: str, model: type[ModelT], folders: Sequence[Path]) -> ModelT:
    return cast("ModelT", _read(find_profile(kind, name, folders=folders), model))


@cache
def _read(path: Path, model: type[BaseModel]) -> BaseModel:
    document = read_profile_file(path)
    profile = validate_profile(model, document)
    own_name = str(document.data.get("name", ""))
    if own_name != path.stem:
        line = document.lines.get(("name",))
        raise ProfileError(
            "the name must be that of the file", file=str(path), line=line, value=own_name, allowed=path.stem
        )
    return profile


@cache
def _files(folder: Path) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    found = sorted(folder.glob("*.yaml"))
    if len(found) > _MAX_FILES:
        raise ProfileError("too many profiles in one folder", file=str(folder), allowed=f"{_MAX_FILES} files")
    return tuple(found)


@cache
def _index(folder: Path) -> dict[str, Path]:
    """Return every file of a folder by its canonical name and aliases; names win over aliases."""
    index = {alias: path for path in reversed(_files(folder)) for alias in _scanned_aliases(path)}
    return index | {canonical(path.stem): path for path in _files(folder)}


def _scanned_aliases(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as stream:
            head = stream.read(_MAX_SCANNED_CHARS)
    except (OSError, UnicodeDecodeError):
        return
    if match := _ALIASES.search(head):
        for part in match.group(1).split(","):
            if alias := canonical(part.strip().strip("'\"")):
                yield alias


def _first_mistake(error: ValidationError, document: ProfileFile) -> ProfileError:
    first = error.errors(include_url=False)[0]
    path: KeyPath = tuple(first["loc"])
    while path and path not in document.lines:
        path = path[:-1]
    key = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    given = first["input"] if isinstance(first["input"], str | int | float) else ...
    return ProfileError(message, file=document.file, line=document.lines.get(path), key=key, value=given)
