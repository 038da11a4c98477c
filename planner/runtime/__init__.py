"""Runs agent plans against OpenAI-compatible endpoints.

>>> from planner.runtime import execute
>>> result = await execute("plan.json", "Why is the sky blue?", {"small": "http://127.0.0.1:8000/v1"})
>>> result.text

Importing this package costs next to nothing; the HTTP client is loaded by the first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planner.runtime.bindings import Bindings, Endpoint, ToolBinding, ToolRequest, bindings_of
    from planner.runtime.engine import RunOptions, Runtime, bind, execute
    from planner.runtime.execution import Event
    from planner.runtime.failures import RunFailedError
    from planner.runtime.records import CallRecord, RunResult

__all__ = [
    "Bindings",
    "CallRecord",
    "Endpoint",
    "Event",
    "RunFailedError",
    "RunOptions",
    "RunResult",
    "Runtime",
    "ToolBinding",
    "ToolRequest",
    "bind",
    "bindings_of",
    "execute",
]

_HOMES = {
    "bindings": ("Bindings", "Endpoint", "ToolBinding", "ToolRequest", "bindings_of"),
    "engine": ("RunOptions", "Runtime", "bind", "execute"),
    "execution": ("Event",),
    "failures": ("RunFailedError",),
    "records": ("CallRecord", "RunResult"),
}


def __getattr__(name: str) -> Any:
    """Load what is asked for."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"planner.runtime.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
