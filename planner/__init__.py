"""Newel: a compiler-style scheduling planner for LLM systems.

>>> from planner import plan, verify, export
>>> lengths = {"input_tokens": 4000, "output_tokens": 500}
>>> found = plan(model="llama-3.1-70b", cluster="8xh200", workload=lengths)
>>> verify(found).passed
True
>>> export(found, to="vllm", out="launch/")

Importing this package is cheap; the planner itself is imported by the first call.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.plan.schema import Plan
    from planner.verify import VerificationReport

__version__ = "0.1.0"

__all__ = ["__version__", "export", "load", "plan", "save", "verify"]


def plan(spec: str | Path | Mapping[str, object] | None = None, **sections: object) -> Plan:
    """Return the best plan for a spec, checked.

    Parameters
    ----------
    spec
        Path of a spec file, or its content as a mapping.
    sections
        Top-level keys of the spec that are set or replaced, e.g. ``objective="min_cost"``.

    Raises
    ------
    planner.errors.InputError
        If anything in the spec is wrong. An infeasible spec raises nothing: its plan says so in
        `status` and `infeasibility`.
    planner.errors.NothingFoundError
        If the time limit passed before anything was found.
    """
    from planner.frontend.spec_tree import Override, plain_data
    from planner.pipeline import Run, make_plan

    changes = [
        Override(path=(key,), value=plain_data(value, key), origin=key) for key, value in sections.items()
    ]
    return make_plan(spec, Run(), changes)


def verify(plan: Plan | str | Path) -> VerificationReport:
    """Return what the independent checker says about a plan or a plan file.

    Raises
    ------
    planner.errors.InputError
        If the file is no plan.
    """
    from planner.pipeline import check

    return check(_loaded(plan))


def export(plan: Plan | str | Path, to: str, out: str | Path, **options: Any) -> list[Path]:
    """Write the files that launch a plan on the runtime `to`, and return their paths.

    Parameters
    ----------
    plan
        A plan or a plan file.
    to
        Name of the backend, e.g. ``vllm``.
    out
        Folder to write; it must not exist yet.
    options
        Fields of planner.backends.ExportOptions.

    Raises
    ------
    planner.errors.InputError
        If the backend cannot express the plan, or the folder cannot be written.
    """
    from planner.backends import ExportOptions
    from planner.pipeline import export_plan

    return export_plan(_loaded(plan), to, Path(out), ExportOptions(**options))


def load(path: str | Path) -> Plan:
    """Return the plan in a file.

    Raises
    ------
    planner.errors.InputError
        If it holds no plan.
    """
    from planner.plan.serialize import read_plan

    return read_plan(Path(path))


def save(plan: Plan, path: str | Path) -> None:
    """Write a plan to a file.

    Raises
    ------
    planner.errors.InputError
        If it cannot be written.
    """
    from planner.plan.serialize import write_plan

    write_plan(Path(path), plan)


def _loaded(plan: Plan | str | Path) -> Plan:
    return load(plan) if isinstance(plan, str | Path) else plan


_FUNCTIONS = {"planner.plan": plan, "planner.verify": verify}


class _CallableModule(ModuleType):
    """A package that can also be called: ``planner.plan`` is both the function and the package."""

    def __call__(self, *arguments: Any, **named: Any) -> object:
        """Call the function of the same name."""
        return _FUNCTIONS[self.__name__](*arguments, **named)


class _Root(ModuleType):
    """The root, whose packages `plan` and `verify` replace the functions once they are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        """Keep such a package callable."""
        if isinstance(value, ModuleType) and value.__name__ in _FUNCTIONS:
            value.__class__ = _CallableModule
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
