"""``newel import graph``: read an agent graph or a trace of one into the text form."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli.terminal import emit, emit_json, say


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("graph")(graph)


def graph(
    file: Annotated[Path, typer.Argument(help="What to import.")],
    fmt: Annotated[
        str | None,
        typer.Option("--format", help="langgraph, llmcompiler, archon, ...; found out if left away."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where to write; stdout if left away.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Import an agent graph: LangGraph, LLMCompiler, Archon, AutoGen, DSPy, CrewAI, traces, WfFormat."""
    from planner.frontend.agent_graph_text import agent_graph_text
    from planner.frontend.agent_imports import import_agent_graph
    from planner.plan.files import write_text

    found = import_agent_graph(file, fmt=fmt)
    text = agent_graph_text(found)
    for guess in found.guesses:
        say(f"note: {guess}")
    if out is not None:
        write_text(out, text)
        say(f"wrote {out}: {len(found.nodes)} nodes, {len(found.edges)} edges, {len(found.models)} models")
    if as_json:
        emit_json(
            {
                "name": found.name,
                "nodes": len(found.nodes),
                "edges": len(found.edges),
                "models": [m.name for m in found.models],
                "guesses": list(found.guesses),
                "file": None if out is None else str(out),
            }
        )
    elif out is None:
        emit(text)
