"""Backends: one exporter per runtime, each a file whose name is its registered name."""

from __future__ import annotations

from planner.backends._folder import write_folder
from planner.backends._models import export_files
from planner.backends._protocol import Backend, Capabilities, ExportedFile, ExportOptions
from planner.registry import Registry

__all__ = [
    "BACKENDS",
    "Backend",
    "Capabilities",
    "ExportOptions",
    "ExportedFile",
    "export_files",
    "write_folder",
]

BACKENDS: Registry[Backend] = Registry(what="backend", package="planner.backends", attribute="BACKEND")
"""Exporters by the name of their runtime."""
