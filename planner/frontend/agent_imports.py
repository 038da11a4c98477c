"""Foreign descriptions and records of agent graphs: which reader a file wants, and the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from planner.errors import InputError
from planner.frontend.yaml_source import read_text
from planner.ir.agent_graph import AgentGraph
from planner.registry import Registry

_MAX_BYTES = 64 * 2**20


class AgentImporter(Protocol):
    """Reads one format."""

    def accepts(self, text: str) -> bool:
        """Whether the text looks like this format."""
        ...

    def read(self, text: str, *, file: str, companion: str = "") -> AgentGraph:
        """Return the graph; `companion` is the text of a second file that knows more.

        Raises
        ------
        InputError
            If the text cannot be read as a graph.
        """
        ...


AGENT_IMPORTERS: Registry[AgentImporter] = Registry(
    what="graph format", package="planner.frontend.agent_importers", attribute="IMPORTER"
)


def import_agent_graph(path: Path, *, fmt: str | None = None) -> AgentGraph:
    """Return the graph in a foreign file.

    For ``x.graph.json`` a file ``x.internals.json`` beside it is read too.

    Raises
    ------
    InputError
        If no format claims the file or its reader refuses it.
    """
    text = read_text(path, max_bytes=_MAX_BYTES)
    companion = ""
    if path.name.endswith(".graph.json"):
        beside = path.with_name(
            path.name.removesuffix(".graph.json").removesuffix(".xray") + ".internals.json"
        )
        companion = read_text(beside, max_bytes=_MAX_BYTES) if beside.is_file() else ""
    return import_agent_text(text, file=str(path), fmt=fmt, companion=companion)


def import_agent_text(text: str, *, file: str, fmt: str | None = None, companion: str = "") -> AgentGraph:
    """Return the graph in a foreign text.

    Raises
    ------
    InputError
        If no format claims the text or its reader refuses it.
    """
    names = [fmt] if fmt else [name for name, i in AGENT_IMPORTERS.items() if i.accepts(text)]
    if not names:
        raise InputError(
            "no graph format recognises the file",
            file=file,
            allowed=", ".join(AGENT_IMPORTERS.names()),
            hint="Name the format with --format.",
        )
    return AGENT_IMPORTERS.get(names[0]).read(text, file=file, companion=companion)
