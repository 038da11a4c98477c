"""Packages that only a GPU or a whole installation needs, stood in for while a parser is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from unittest.mock import MagicMock


class _StandIn(types.ModuleType):
    __path__ = ()

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        return MagicMock(name=f"{self.__name__}.{name}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, *packages: str) -> None:
        self.packages = packages

    def find_spec(self, fullname, path=None, target=None):
        if any(f"{fullname}.".startswith(f"{package}.") for package in self.packages):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module):
        return None


def stand_in_for(*packages: str) -> None:
    """From now on, importing one of `packages` gives an empty stand-in."""
    sys.meta_path.append(_Finder(*packages))
