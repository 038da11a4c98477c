"""Calls and edges of an agent plan as its details state them: critical path, levels, streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from planner.plan.schema import Plan

_SLACK_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call as planned; times in seconds from the start of the run."""

    name: str
    node: str
    model: str
    start_s: float
    first_token_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Seconds from start to end."""
        return self.end_s - self.start_s


def planned_calls(plan: Plan) -> list[PlannedCall]:
    """Return the calls of a plan, in its order."""
    rows = cast("list[dict[str, Any]]", plan.details.get("calls") or [])
    return [
        PlannedCall(
            name=str(row["name"]),
            node=str(row["node"]),
            model=str(row.get("model", "")),
            start_s=float(row["start_s"]),
            first_token_s=float(row.get("first_token_s", row["end_s"])),
            end_s=float(row["end_s"]),
        )
        for row in rows
    ]


def _edges(plan: Plan) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", plan.details.get("edges") or [])


def streams_of(plan: Plan) -> list[tuple[tuple[str, str], str, tuple[float, ...]]]:
    """Return (ends, kind, boundaries in tokens) of the edges that do not wait."""
    return [
        ((str(e["from"]), str(e["to"])), str(e["kind"]), tuple(float(b) for b in e.get("boundaries", ())))
        for e in _edges(plan)
        if e["kind"] != "barrier"
    ]


def critical_path(plan: Plan, calls: list[PlannedCall]) -> list[PlannedCall]:
    """Return the chain of calls that ends last: each call is the one that its successor waited for.

    Calls that take no time (joints, routers) are left out.
    """
    by_name = {c.name: c for c in calls}
    into: dict[str, list[PlannedCall]] = {}
    for edge in _edges(plan):
        into.setdefault(str(edge["to"]), []).append(by_name[str(edge["from"])])
    last = max(calls, key=lambda c: c.end_s, default=None)
    path: list[PlannedCall] = []
    while last is not None:
        path.append(last)
        # of an early join only those that were there by the start can have been waited for
        start = last.start_s
        producers = into.get(last.name, [])
        there = [p for p in producers if p.end_s <= start + _SLACK_S] or producers
        last = max(there, key=lambda c: (c.end_s, c.name), default=None)
    return [c for c in reversed(path) if c.duration_s > _SLACK_S]


def level_time_s(plan: Plan, calls: list[PlannedCall]) -> float:
    """Return seconds if every level of the graph waited for the whole level before it."""
    level: dict[str, int] = {}
    into: dict[str, list[str]] = {}
    for edge in _edges(plan):
        into.setdefault(str(edge["to"]), []).append(str(edge["from"]))
    longest: dict[int, float] = {}
    for call in calls:
        sources = into.get(call.name, [])
        own = 1 if call.duration_s > _SLACK_S else 0
        level[call.name] = max((level.get(s, 0) for s in sources), default=0) + own
        longest[level[call.name]] = max(longest.get(level[call.name], 0.0), call.duration_s)
    return sum(longest.values())
