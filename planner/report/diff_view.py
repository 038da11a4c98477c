"""Differences of two plans as lines of text."""

from __future__ import annotations

from planner.plan.diff import Change, PlanDiff
from planner.report.figures import figure, percent, printable

_MAX_MOVES = 20


def diff_lines(diff: PlanDiff) -> list[str]:
    """Return one line per difference, under a heading per sort; empty if there is none."""
    lines = _section("decisions", [_line(change) for change in diff.decisions])
    moves = [_line(change) for change in diff.moves]
    if len(moves) > _MAX_MOVES:
        moves = [*moves[:_MAX_MOVES], f"... and {len(moves) - _MAX_MOVES} more"]
    lines += _section(f"replicas that moved: {len(diff.moves)}", moves)
    lines += _section("predictions", [_line(change) for change in diff.predictions])
    lines += _section("inputs", [f"{change.what} changed" for change in diff.inputs])
    return [printable(line) for line in lines]


def _section(title: str, lines: list[str]) -> list[str]:
    return [title, *(f"  {line}" for line in lines)] if lines else []


def _line(change: Change) -> str:
    text = f"{change.what}: {_word(change.before)} -> {_word(change.after)}"
    return f"{text} ({percent(change.relative, signed=True)})" if change.relative is not None else text


def _word(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return figure(value)
    if isinstance(value, list | tuple):
        return " ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
    return str(value)
