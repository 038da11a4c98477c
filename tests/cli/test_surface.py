"""The command line's surface is frozen: a change of a command or an option shows up here.

To accept a change: NEWEL_UPDATE_GOLDEN=1 pytest tests/cli/test_surface.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer.main

from planner.cli.main import build_app

GOLDEN = Path(__file__).parents[1] / "golden" / "cli_surface.txt"


def _surface(command: Any, prefix: str) -> list[str]:
    lines: list[str] = []
    for param in command.params:
        names = "/".join(sorted(param.opts + param.secondary_opts))
        multiple = " (repeatable)" if getattr(param, "multiple", False) else ""
        lines.append(f"{prefix} {names}{multiple}")
    lines.sort()
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        lines.extend([f"{prefix} {name}", *_surface(sub, f"{prefix} {name}")])
    return lines


def test_surface_is_as_frozen() -> None:
    text = "\n".join(_surface(typer.main.get_command(build_app()), "newel")) + "\n"
    if os.environ.get("NEWEL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")
