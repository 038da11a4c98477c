"""Profiles by name: shipped folders, and folders of the user's own that come before them.

A profile is one file `<kind>/<name>.yaml`. It is found by its file name or by an entry of its
`aliases`; spelling is forgiving in case and in ``_`` against ``-``. Only the file that is asked for
is parsed; aliases are found by scanning the `aliases:` line of the files. Folders named in the
environment variable NEWEL_PROFILES (separated like PATH) come first, later ones after them; a YAML
file named there is the profile of one engine (``newel calibrate tune`` writes such files).
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

from hardware_profiles.cluster_file import ClusterFile
from hardware_profiles.errors import ProfileError
from hardware_profiles.profile_file import KeyPath, ProfileFile, read_profile_file
from hardware_profiles.schema import (
    DeviceProfile,
    LinkProfile,
    NodeProfile,
    PriceList,
    SoftwareProfile,
    TrainerProfile,
)

ProfileKind = Literal["devices", "links", "nodes", "clusters", "prices", "software", "trainers"]

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
    "software": "engine",
    "trainers": "training stack",
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
    """Return the folders that are searched, first come first served: `extra`, the environment's, ours.

    Raises
    ------
    ProfileError
        If a folder of the user's does not exist.
    """
    listed = os.environ.get(ENVIRONMENT_VARIABLE, "")
    named = (Path(part) for part in listed.split(os.pathsep) if part)
    own = (*extra, *(path for path in named if not _is_single(path)))
    for folder in own:
        if not folder.is_dir():
            named = f"{ENVIRONMENT_VARIABLE} or --profiles"
            raise ProfileError(f"no such folder of profiles, named by {named}", value=str(folder))
    return (*own, _SHIPPED)


def _is_single(path: Path) -> bool:
    """Return whether an entry of the environment is one engine's file rather than a folder."""
    return path.suffix in (".yaml", ".yml")


def _single_software(name: str) -> SoftwareProfile | None:
    """Return the engine that a file named in the environment describes, if it answers to `name`.

    A file answers to its own name, to its engine's and to the engine's at its version.
    """
    for part in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep):
        if part and _is_single(Path(part)):
            profile = validate_profile(SoftwareProfile, read_profile_file(Path(part)))
            names = (profile.name, profile.engine, f"{profile.engine}-{profile.version}")
            if canonical(name) in (canonical(own) for own in names):
                return profile
    return None


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


def load_software(name: str, *, folders: Sequence[Path] = ()) -> SoftwareProfile:
    """Return the engine called `name`.

    Raises
    ------
    ProfileError
        If no engine has that name or its file is wrong.
    """
    return _single_software(name) or _load("software", name, SoftwareProfile, folders)


def load_trainer(name: str, *, folders: Sequence[Path] = ()) -> TrainerProfile:
    """Return the training stack called `name`.

    Raises
    ------
    ProfileError
        If no training stack has that name or its file is wrong.
    """
    return _load("trainers", name, TrainerProfile, folders)


def load_cluster_file(name: str, *, folders: Sequence[Path] = ()) -> ClusterFile:
    """Return the cluster called `name`, as it is written in its file.

    Raises
    ------
    ProfileError
        If no cluster has that name or its file is wrong.
    """
    return _load("clusters", name, ClusterFile, folders)


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
        raise _first_mistake(error, model, document) from None


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


_SAID = {
    "missing": "key is missing",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected text",
    "bool_type": "expected true or false",
    "bool_parsing": "expected true or false",
    "tuple_type": "expected a list",
    "dict_type": "expected a table of keys",
    "model_type": "expected a table of keys",
    "model_attributes_type": "expected a table of keys",
    "extra_forbidden": "unknown key",
}


def _first_mistake(error: ValidationError, model: type[BaseModel], document: ProfileFile) -> ProfileError:
    """Return the first mistake in the order of the file's lines, in words."""
    found = error.errors(include_url=False)
    first = min(found, key=lambda mistake: _line(mistake["loc"], document) or 0)
    message = _SAID.get(first["type"], str(first["msg"]).removeprefix("Value error, "))
    hint = ""
    if first["type"] == "extra_forbidden":
        close = get_close_matches(str(first["loc"][-1]), sorted(_keys(model)), n=1)
        hint = f"Did you mean {close[0]!r}?" if close else ""
    shown = isinstance(first["input"], str | int | float) and first["type"] != "extra_forbidden"
    return ProfileError(
        message,
        file=document.file or None,
        line=_line(first["loc"], document),
        key=_dotted(first["loc"]),
        value=first["input"] if shown and "; got " not in message else ...,
        hint=hint,
    )


def _line(loc: KeyPath, document: ProfileFile) -> int | None:
    path = loc
    while path and path not in document.lines:
        path = path[:-1]
    return document.lines.get(path)


def _dotted(loc: KeyPath) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@cache
def _keys(model: type[BaseModel]) -> frozenset[str]:
    """Return every key that a model and the models inside it know."""
    schema = model.model_json_schema()
    tables = (schema, *cast("dict[str, dict[str, object]]", schema.get("$defs", {})).values())
    return frozenset(
        key for table in tables for key in cast("dict[str, object]", table.get("properties", {}))
    )
