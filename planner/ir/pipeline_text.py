"""Text form of pipeline schedules: printed and read back without loss."""

from __future__ import annotations

import re
from itertools import groupby
from typing import cast

from planner.errors import InputError
from planner.ir.pipeline_schedule import (
    PassKind,
    PipelineOp,
    PipelineSchedule,
    PipelineStage,
    PipelineWork,
    check_work,
)

_HEADER = "pipeline_schedule v1"
_OP = re.compile(r"(\d{1,9})([FBIW])(\d{1,9})@(\S{1,40})")
_STAGE_FIELDS = (
    "forward_s",
    "backward_input_s",
    "backward_weight_s",
    "activation_bytes",
    "weight_activation_bytes",
)


def print_schedule(schedule: PipelineSchedule) -> str:
    """Return the text form: the work first, then one line per device with ``<op>@<start_s>``."""
    work = schedule.work
    lines = [_HEADER, f"name {schedule.name}", f"send_s {work.send_s!r}"]
    if work.link_send_s:
        lines.append("link_send_s " + " ".join(repr(s) for s in work.link_send_s))
    for stage in work.stages:
        fields = " ".join(f"{name}={getattr(stage, name)!r}" for name in _STAGE_FIELDS)
        lines.append(f"stage device={stage.device} {fields}")
    for route, group in groupby(work.routes):
        lines.append(f"route {len(list(group))} " + " ".join(str(s) for s in route))
    for limit, ops, starts in zip(
        work.memory_limit_bytes, schedule.device_ops, schedule.start_s, strict=True
    ):
        cells = " ".join(f"{op}@{start!r}" for op, start in zip(ops, starts, strict=True))
        lines.append(f"device limit_bytes={limit!r} : {cells}".rstrip())
    return "\n".join(lines) + "\n"


def parse_schedule(text: str, file: str | None = None) -> PipelineSchedule:
    """Return the schedule whose text form is `text`.

    Raises
    ------
    InputError
        If a line is not of the text form, with the line's number.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != _HEADER:
        raise InputError("not a pipeline schedule", file=file, line=1, allowed=f"first line {_HEADER!r}")
    reader = _Reader()
    for number, line in enumerate(lines[1:], start=2):
        try:
            reader.take(line.strip())
        except (ValueError, KeyError, OverflowError) as error:
            raise InputError(
                "cannot read this line of a pipeline schedule", file=file, line=number, value=line
            ) from error
    return reader.finish(file)


class _Reader:
    """Collects the lines of one text form."""

    def __init__(self) -> None:
        self.name = ""
        self.send_s = 0.0
        self.link_send_s: tuple[float, ...] = ()
        self.stages: list[PipelineStage] = []
        self.routes: list[tuple[int, ...]] = []
        self.limits: list[float] = []
        self.ops: list[tuple[PipelineOp, ...]] = []
        self.starts: list[tuple[float, ...]] = []

    def take(self, line: str) -> None:
        """Take one line in."""
        word, _, rest = line.partition(" ")
        if word == "name":
            self.name = rest
        elif word == "send_s":
            self.send_s = float(rest)
        elif word == "link_send_s":
            self.link_send_s = tuple(float(part) for part in rest.split())
        elif word == "stage":
            self._stage(rest)
        elif word == "route":
            count, *stages = (int(part) for part in rest.split())
            if not 0 < count <= 1_000_000:
                raise ValueError(count)
            self.routes += [tuple(stages)] * count
        elif word == "device":
            self._device(rest)
        elif word:
            raise ValueError(word)

    def _stage(self, rest: str) -> None:
        fields = dict(part.split("=", 1) for part in rest.split())
        self.stages.append(
            PipelineStage(
                device=int(fields["device"]), **{name: float(fields[name]) for name in _STAGE_FIELDS}
            )
        )

    def _device(self, rest: str) -> None:
        head, _, cells = rest.partition(":")
        self.limits.append(float(head.split("=", 1)[1]))
        ops: list[PipelineOp] = []
        starts: list[float] = []
        for cell in cells.split():
            match = _OP.fullmatch(cell)
            if match is None:
                raise ValueError(cell)
            stage, kind, microbatch, start = match.groups()
            ops.append(PipelineOp(kind=cast("PassKind", kind), stage=int(stage), microbatch=int(microbatch)))
            starts.append(float(start))
        self.ops.append(tuple(ops))
        self.starts.append(tuple(starts))

    def finish(self, file: str | None) -> PipelineSchedule:
        """Return what was read, checked."""
        work = PipelineWork(
            stages=tuple(self.stages),
            num_devices=len(self.limits),
            routes=tuple(self.routes),
            send_s=self.send_s,
            memory_limit_bytes=tuple(self.limits),
            link_send_s=self.link_send_s,
        )
        try:
            check_work(work)
        except InputError as error:
            raise error.located(file=file) from error
        return PipelineSchedule(
            name=self.name, work=work, device_ops=tuple(self.ops), start_s=tuple(self.starts)
        )
