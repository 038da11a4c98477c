"""Public scheduling instances: which reader a file wants, and the problem it holds."""

from __future__ import annotations

from pathlib import Path

from planner.errors import InputError
from planner.frontend.instance_text import InstanceImporter, InstanceSettings
from planner.ir.scheduling_problem import SchedulingProblem
from planner.registry import Registry

INSTANCE_IMPORTERS: Registry[InstanceImporter] = Registry(
    what="instance format", package="planner.frontend.instance_importers", attribute="IMPORTER"
)
_MAX_BYTES = 64 * 2**20


def instance_text(path: Path) -> str:
    """Return the text of an instance file.

    Raises
    ------
    InputError
        If it cannot be read, is not text or is larger than 64 MiB.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError("the file is too large", file=str(path), allowed="up to 64 MiB")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError("the file is not text", file=str(path)) from error
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", file=str(path)) from error


def format_of(path: Path, text: str) -> str | None:
    """Return the name of the first format that claims the file, its suffix before its text."""
    importers = list(INSTANCE_IMPORTERS.items())
    by_suffix = [name for name, i in importers if path.suffix.lower() in i.suffixes and i.accepts(text)]
    found = by_suffix or [name for name, i in importers if i.accepts(text)]
    return found[0] if found else None


def read_instance(
    path: Path, *, fmt: str | None = None, settings: InstanceSettings | None = None
) -> SchedulingProblem:
    """Return the problem in an instance file.

    Raises
    ------
    InputError
        If no format claims the file or its reader refuses it.
    """
    text = instance_text(path)
    name = fmt or format_of(path, text)
    if name is None:
        raise InputError(
            "no instance format recognises the file",
            file=str(path),
            allowed=", ".join(INSTANCE_IMPORTERS.names()),
        )
    return INSTANCE_IMPORTERS.get(name).read(text, file=str(path), settings=settings or InstanceSettings())
