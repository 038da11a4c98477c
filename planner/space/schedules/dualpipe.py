"""DualPipe: micro-batches enter a two-way pipeline at both ends; every device holds two stages."""

from __future__ import annotations

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PassKind, PipelineOp, PipelineWork
from planner.space.schedule_family import ScheduleFamily, op


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders; an overlapped pair of the original is a forward and a whole backward pass in turn.

    Raises
    ------
    InputError
        If the layout is not two-way or there are fewer than two micro-batches per device.
    """
    count = work.num_devices
    forth, back = tuple(range(count)), tuple(range(count, 2 * count))
    half = work.num_microbatches // 2
    if work.routes != (forth,) * half + (back,) * half or count % 2:
        raise InputError("DualPipe is defined for an even two-way pipeline only")
    if half < count:
        raise InputError(
            "DualPipe needs at least two micro-batches per device", value=2 * half, allowed=f">= {2 * count}"
        )
    return tuple(_Row(device, count, half).build() for device in range(count))


class _Row:
    """Operations of one device; direction 0 is the one whose entrance is nearer."""

    def __init__(self, device: int, count: int, half: int) -> None:
        self.near = min(device, count - 1 - device)
        self.half_devices, self.half = count // 2, half
        first, second = (device, 0), (2 * count - 1 - device, half)
        self.lanes = (first, second) if device < self.half_devices else (second, first)
        self.next: dict[tuple[str, int], int] = {}
        self.pending: list[tuple[int, int]] = []
        self.ops: list[PipelineOp] = []

    def build(self) -> tuple[PipelineOp, ...]:
        """Return all operations, phase by phase."""
        outer = self.half_devices - self.near - 1
        for _ in range(2 * outer):
            self._pass("F", 0)
        for _ in range(self.near + 1):
            self._pass("F", 0)
            self._pass("F", 1)
        for _ in range(outer):
            self._pass("I", 1)
            self._weight()
            self._pass("F", 1)
        for _ in range(self.half - 2 * self.half_devices + self.near + 1):
            self._pair(0, 1)
            self._pair(1, 0)
        for _ in range(outer):
            self._pass("B", 1)
            self._pair(1, 0)
        self._drain(outer)
        return tuple(self.ops)

    def _drain(self, outer: int) -> None:
        """Backward passes alone; the second half of them is split, so that weights fill the end."""
        steps = self.near + 1
        for i in range(2 * steps):
            split = i >= steps if steps % 2 == 0 else i > steps - 1
            self._pass("I" if split else "B", 1 - i % 2)
        for _ in range(outer):
            self._weight()
            self._pass("I", 0)
        while self.pending:
            self._weight()

    def _pass(self, kind: PassKind, lane: int) -> None:
        stage, first = self.lanes[lane]
        slot = ("F" if kind == "F" else "I", lane)
        microbatch = self.next.get(slot, first)
        self.next[slot] = microbatch + 1
        self.ops.append(op(kind, stage, microbatch))
        if kind == "I":
            self.pending.append((stage, microbatch))

    def _pair(self, forward: int, backward: int) -> None:
        self._pass("F", forward)
        self._pass("B", backward)

    def _weight(self) -> None:
        stage, microbatch = self.pending.pop(0)
        self.ops.append(op("W", stage, microbatch))


SCHEDULE = ScheduleFamily(
    title="DualPipe",
    layout="two_way",
    build=build,
    source="DeepSeek-AI, DeepSeek-V3 technical report, 2024 (arXiv 2412.19437), section 3.2.1",
)
