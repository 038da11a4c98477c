"""The time line of a run as text: a bar per call, and the run's figures beside the plan's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from planner.report.figures import figure, percent, printable

_WIDTH = 40
_MAX_ROWS = 60
_Row = Mapping[str, Any]


def timeline_lines(result: Mapping[str, object]) -> list[str]:
    """Return a run, given as plain data, as lines of text.

    In a bar ``.`` is waiting, ``-`` time to the first token and ``=`` from the first token to the last.
    """
    rows = [r for r in cast("Sequence[_Row]", result["calls"]) if r["ready_s"] is not None]
    rows = [r for r in rows if r["kind"] != "router"]
    total = max((float(r["end_s"] or 0.0) for r in rows), default=0.0)
    width = max((len(str(r["name"])) for r in rows), default=4)
    lines = [
        f"{'call':{width}}  {'where':12}  {'start':>8}  {'first':>8}  {'end':>8}  {'tokens':>7}  time line"
    ]
    lines += [_line(r, width, total) for r in rows[:_MAX_ROWS]]
    if len(rows) > _MAX_ROWS:
        lines.append(f"... and {len(rows) - _MAX_ROWS} more calls")
    skipped = [str(r["name"]) for r in cast("Sequence[_Row]", result["calls"]) if r["status"] == "skipped"]
    if skipped:
        lines.append("not taken: " + ", ".join(skipped[:20]))
    lines += ["", *_summary(result, len(rows))]
    return [printable(line) for line in lines]


def _line(row: _Row, width: int, total: float) -> str:
    bar = [" "] * _WIDTH
    marks = (("ready_s", "start_s", "."), ("start_s", "first_s", "-"), ("first_s", "end_s", "="))
    for begin, end, mark in marks:
        if row[begin] is None or row[end] is None or total <= 0:
            continue
        first = min(int(float(row[begin]) / total * _WIDTH), _WIDTH - 1)
        last = min(max(int(float(row[end]) / total * _WIDTH), first + 1), _WIDTH)
        bar[first:last] = mark * (last - first)
    notes = [str(row["status"])] if row["status"] != "done" else []
    notes += [f"{row['num_rounds']} rounds"] if row["num_rounds"] > 1 else []
    notes += [f"{row['num_attempts']} attempts"] if row["num_attempts"] > max(row["num_rounds"], 1) else []
    notes += ["from the journal"] if row["reused"] else []
    times = "  ".join(f"{_seconds(row[name]):>8}" for name in ("start_s", "first_s", "end_s"))
    where = str(row["model"] or row["kind"])[:12]
    tail = f" ({', '.join(notes)})" if notes else ""
    return f"{row['name']:{width}}  {where:12}  {times}  {row['output_tokens']:>7}  |{''.join(bar)}|{tail}"


def _seconds(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float | int) else "-"


def _summary(result: Mapping[str, object], num_calls: int) -> list[str]:
    predicted = cast("Mapping[str, float]", result["predicted"])
    figures: list[str] = []
    named = (("ttft_s", "first token", "s"), ("latency_s", "end", "s"), ("usd", "cost", "USD"))
    for name, words, unit in named:
        value = result[name]
        if not isinstance(value, float | int) or (name == "usd" and not value):
            continue
        plan = predicted.get("cost_usd" if name == "usd" else name)
        beside = f" (plan {figure(plan, unit)}, {percent(value / plan - 1, signed=True)})" if plan else ""
        figures.append(f"{words} {figure(float(value), unit)}{beside}")
    spent = [f"{words} {figure(cast('float', result[name]), 's')}" for name, words in _TIMES]
    per_call = cast("float", result["framework_s"]) / max(num_calls, 1)
    return [", ".join(figures), f"{', '.join(spent)} ({figure(per_call, 's')} a call, {num_calls} calls)"]


_TIMES = (
    ("model_s", "models and tools worked"),
    ("waited_s", "waiting for slots and retries took"),
    ("framework_s", "this program took"),
)
