"""Flags of ``kind: agents``."""

from __future__ import annotations

from planner.cli.flags import Flag

FLAGS = (
    Flag(name="graph", keys=("graph",), help="File of the agent graph.", form="text"),
    Flag(name="observed", keys=("observed",), help="Folder of run records to plan with.", form="text"),
    Flag(name="first-chunk", keys=("streaming", "min_first_chunk"), help="Least first chunk, tokens."),
    Flag(name="e2e-slack", keys=("streaming", "e2e_slack"), help="How much later the end may be, 0.1."),
)  # fmt: skip
