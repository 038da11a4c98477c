"""Flags of ``kind: fleet``: the models stand in the spec."""

from __future__ import annotations

from planner.cli.flags import Flag

FLAGS = (
    Flag(name="cluster", keys=("cluster",), help="Cluster file or shorthand: 2x8xh100@ib400.", form="text"),
)
