"""Versions of the plan's schema: what is read, and how older files become current ones.

A version is major.minor. Files of the current major are read; a minor that is newer may hold what
this program does not know, and is refused. Each migration lifts a file by one version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from planner.errors import InputError
from planner.plan.schema import SCHEMA_VERSION

Raw = dict[str, object]

MIGRATIONS: Mapping[str, Callable[[Raw], Raw]] = {}
"""From a version to the function that lifts its files to the next one (and says so in schema_version)."""

_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}\Z")


def migrated(raw: Raw, *, file: str | None = None) -> Raw:
    """Return the data of a plan file in the current version.

    Raises
    ------
    InputError
        If it states no version, or one that is not read.
    """
    seen: set[str] = set()
    while True:
        version = raw.get("schema_version")
        if not isinstance(version, str) or not _VERSION.match(version):
            raise InputError(
                "this is no valid plan: it states no schema version",
                file=file,
                key="schema_version",
                value=version,
            )
        if version == SCHEMA_VERSION:
            return raw
        if version not in MIGRATIONS or version in seen:
            newer = _parts(version) > _parts(SCHEMA_VERSION)
            raise InputError(
                "plan of another version",
                file=file,
                key="schema_version",
                value=version,
                allowed=", ".join((*MIGRATIONS, SCHEMA_VERSION)),
                hint="It was made by a newer newel: update this one."
                if newer
                else "Plan again from the spec.",
            )
        seen.add(version)
        raw = MIGRATIONS[version](raw)


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
