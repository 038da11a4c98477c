"""Where output goes: artefacts to stdout, everything for people to stderr.

Colour and progress appear only on a terminal.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from planner.diagnostics import Diagnostics

JsonValue = Mapping[str, object] | Sequence[object] | str | float | int | bool | None


def emit(text: str) -> None:
    """Write an artefact to stdout, ending in one newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")
    sys.stdout.flush()


def emit_json(value: JsonValue) -> None:
    """Write a JSON artefact to stdout: stable key order, no NaN."""
    emit(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def say(text: str) -> None:
    """Write one plain line for people to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def console() -> Console:
    """Return the console for people: stderr, plain text when it is not a terminal.

    A file or a pipe gets 120 columns; a terminal gets its own width.
    """
    from rich.console import Console

    width = None if sys.stderr.isatty() else 120
    return Console(stderr=True, highlight=False, markup=False, emoji=False, width=width)


def stdout_console() -> Console:
    """Return a console for an artefact that is text for people (a table asked for by name)."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 120
    return Console(highlight=False, markup=False, emoji=False, width=width)


def new_diagnostics() -> Diagnostics:
    """Return diagnostics whose progress shows on stderr when that is a terminal."""
    from planner.diagnostics import Diagnostics

    return Diagnostics(on_progress=_show_progress if sys.stderr.isatty() else None)


def show_diagnostics(diagnostics: Diagnostics) -> None:
    """Print every warning and note on stderr."""
    for entry in diagnostics.entries:
        say(f"{entry.severity}: {entry.message} [{entry.code}]")


def _show_progress(message: str) -> None:
    sys.stderr.write(f"\r\x1b[2K{message}\r" if message else "\r\x1b[2K")
    sys.stderr.flush()
