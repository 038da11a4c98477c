"""Every registry of the planner is walked: each entry loads, has a docstring and its attribute."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import pytest

import planner
from planner.errors import UnknownNameError
from planner.registry import Registry

from .sources import imported_modules


def _registries() -> dict[str, Registry[object]]:
    found: dict[str, Registry[object]] = {}
    for info in pkgutil.walk_packages(planner.__path__, "planner."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, Registry):
                found[value.package] = value
    return found


REGISTRIES = _registries()


@pytest.mark.parametrize("package", sorted(REGISTRIES))
def test_every_entry_loads_and_is_documented(package: str) -> None:
    registry = REGISTRIES[package]
    for name, entry in registry.items():
        assert entry is not None
        module = sys.modules[f"{package}.{name.replace('-', '_')}"]
        assert module.__doc__, name


@pytest.mark.parametrize("package", sorted(REGISTRIES))
def test_unknown_names_are_refused_with_what_is_allowed(package: str) -> None:
    registry = REGISTRIES[package]
    with pytest.raises(UnknownNameError, match="unknown "):
        registry.get("no-such-entry")


@pytest.mark.parametrize("package", sorted(REGISTRIES))
def test_siblings_do_not_import_each_other(package: str) -> None:
    names = REGISTRIES[package].names()
    modules = {name: f"{package}.{name.replace('-', '_')}" for name in names}
    found = [
        f"{module} -> {imported}"
        for module in modules.values()
        for imported in imported_modules(module)
        if imported in modules.values() and imported != module
    ]
    assert found == []
