"""Registries: a file dropped into an extension folder is found under its own name.

The name of a module is its registered name (underscores read as dashes). Listing names
imports nothing; only the module that is asked for is imported.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, TypeVar, cast

from planner.errors import UnknownNameError

T = TypeVar("T")


@cache
def _module_names(package: str) -> tuple[str, ...]:
    paths = importlib.import_module(package).__path__
    return tuple(sorted(m.name for m in pkgutil.iter_modules(paths) if not m.name.startswith("_")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Registry(Generic[T]):
    """Extensions of one kind: one module per extension in `package`, exposing `attribute`.

    Parameters
    ----------
    what
        What an entry is, in words, for messages ("backend").
    package
        Dotted name of the extension folder.
    attribute
        Name of the module attribute that is the extension.
    """

    what: str
    package: str
    attribute: str

    def names(self) -> tuple[str, ...]:
        """Return all registered names, sorted, importing none of them."""
        return tuple(name.replace("_", "-") for name in _module_names(self.package))

    def get(self, name: str) -> T:
        """Return the extension called `name`.

        Raises
        ------
        UnknownNameError
            If no module of that name exists; the nearest name is suggested.
        """
        module_name = name.replace("-", "_")
        if module_name not in _module_names(self.package):
            raise UnknownNameError(self.what, name, self.names())
        module = importlib.import_module(f"{self.package}.{module_name}")
        return cast("T", cast("Any", module).__dict__[self.attribute])

    def items(self) -> Iterator[tuple[str, T]]:
        """Yield every (name, extension), importing each."""
        for name in self.names():
            yield name, self.get(name)
