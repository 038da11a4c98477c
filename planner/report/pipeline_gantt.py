"""Gantt charts of pipeline schedules in text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.ir.pipeline_schedule import PipelineSchedule

if TYPE_CHECKING:
    from rich.text import Text

_STYLES = {"F": "on blue", "I": "on green", "B": "on green", "W": "on yellow", ".": "dim"}


def gantt_lines(schedule: PipelineSchedule, width: int = 100) -> list[str]:
    """Return one line per device; a column is an equal share of the makespan and shows what fills most of it.

    F, I, W and B are passes, a dot is idle time.
    """
    begin = min(row[0] for row in schedule.start_s if row)
    step = schedule.makespan_s() / width
    label = len(str(schedule.work.num_devices - 1))
    lines: list[str] = []
    for device, (ops, starts) in enumerate(zip(schedule.device_ops, schedule.start_s, strict=True)):
        filled = [dict[str, float]() for _ in range(width)]
        for op, start in zip(ops, starts, strict=True):
            left = (start - begin) / step
            right = left + schedule.work.duration_s(op) / step
            for column in range(int(left), min(width, int(right) + 1)):
                share = min(right, column + 1) - max(left, column)
                if share > 0:
                    filled[column][op.kind] = filled[column].get(op.kind, 0.0) + share
        cells = "".join(_most(column) for column in filled)
        lines.append(f"{device:>{label}} |{cells}|")
    return lines


def _most(column: dict[str, float]) -> str:
    if sum(column.values()) < 0.5:
        return "."
    return max(sorted(column), key=lambda kind: column[kind])


def gantt_text(schedule: PipelineSchedule, width: int = 100) -> Text:
    """Return the chart with a colour per kind of pass."""
    from rich.text import Text

    text = Text()
    for line in gantt_lines(schedule, width):
        head, bar, cells = line.partition("|")
        text.append(head + bar)
        for cell in cells[:-1]:
            text.append(cell, style=_STYLES[cell])
        text.append("|\n")
    return text
