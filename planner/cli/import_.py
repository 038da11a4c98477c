"""``newel import``: read foreign descriptions; one file per thing in planner/cli/imports."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Protocol, cast

import typer


class _ImportModule(Protocol):
    def register(self, group: typer.Typer) -> None: ...


def register(app: typer.Typer) -> None:
    """Add the group with every command of planner/cli/imports."""
    group = typer.Typer(
        name="import", help="Read foreign files.", no_args_is_help=True, rich_markup_mode=None
    )
    group.callback()(_described)
    paths = import_module("planner.cli.imports").__path__
    for name in sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")):
        cast("_ImportModule", import_module(f"planner.cli.imports.{name}")).register(group)
    app.add_typer(group, name="import")


def _described() -> None:
    """Read foreign files into Newel's own forms."""
