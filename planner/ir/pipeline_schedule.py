"""Pipeline schedules: what runs on which device in which order, and when.

A step of pipeline parallelism is a set of micro-batches that each visit a path of stages. Every visit
is a forward pass (F), a backward pass for the input gradient (I) and one for the weight gradient (W);
B is I and W done as one operation. A device runs one operation at a time.

Memory of a device follows from the order of its operations alone: a forward pass takes
`activation_bytes`; I gives back all but `weight_activation_bytes`; W gives back the rest; B all of it.

Units: times in seconds, memory in bytes (any one unit will do as long as it is used throughout).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from planner.errors import InputError

PassKind = Literal["F", "B", "I", "W"]
PASS_KINDS: tuple[PassKind, ...] = ("F", "B", "I", "W")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStage:
    """One stage: a run of layers on one device, with the times of its passes for one micro-batch.

    Parameters
    ----------
    device
        Device that holds the stage.
    forward_s, backward_input_s, backward_weight_s
        Times of F, I and W; B takes the sum of the last two.
    activation_bytes
        Held from the start of F to the end of I (or of B).
    weight_activation_bytes
        The part of it that is held on until the end of W.
    """

    device: int
    forward_s: float
    backward_input_s: float
    backward_weight_s: float
    activation_bytes: float
    weight_activation_bytes: float

    @property
    def work_s(self) -> float:
        """Time of all passes of one micro-batch."""
        return self.forward_s + self.backward_input_s + self.backward_weight_s


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineWork:
    """What one training step has to do, whatever the schedule.

    Parameters
    ----------
    stages
        All stages; their index is their name.
    num_devices
        Number of devices; every stage sits on one of them.
    routes
        For each micro-batch the stages that it visits, in forward order.
    send_s
        Time from the end of a pass to the start of the next one on another device; sends overlap
        with computation. Hand-over inside a device is free.
    memory_limit_bytes
        Largest activation memory of each device; infinity where there is no limit.
    link_send_s
        Where sends differ: that between stage s and stage s + 1, for each s but the last.
    """

    stages: tuple[PipelineStage, ...]
    num_devices: int
    routes: tuple[tuple[int, ...], ...]
    send_s: float
    memory_limit_bytes: tuple[float, ...]
    link_send_s: tuple[float, ...] = ()

    @property
    def num_microbatches(self) -> int:
        """Micro-batches of the step."""
        return len(self.routes)

    def send_between_s(self, first: int, second: int) -> float:
        """Return the time of a send between two stages, 0 on one device."""
        if self.stages[first].device == self.stages[second].device:
            return 0.0
        low = min(first, second)
        stated = self.link_send_s and abs(first - second) == 1
        return self.link_send_s[low] if stated else self.send_s

    def duration_s(self, op: PipelineOp) -> float:
        """Return the time that `op` occupies its device."""
        stage = self.stages[op.stage]
        if op.kind == "F":
            return stage.forward_s
        if op.kind == "I":
            return stage.backward_input_s
        if op.kind == "W":
            return stage.backward_weight_s
        return stage.backward_input_s + stage.backward_weight_s

    def device_work_s(self) -> tuple[float, ...]:
        """Return the time that each device computes in the step."""
        totals = [0.0] * self.num_devices
        for route in self.routes:
            for index in route:
                totals[self.stages[index].device] += self.stages[index].work_s
        return tuple(totals)

    def smallest_memory_bytes(self) -> tuple[float, ...]:
        """Return the memory below which a device cannot run even one micro-batch at a time."""
        least = [0.0] * self.num_devices
        for route in set(self.routes):
            held = [0.0] * self.num_devices
            for index in route:
                held[self.stages[index].device] += self.stages[index].activation_bytes
            least = [max(a, b) for a, b in zip(least, held, strict=True)]
        return tuple(least)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class PipelineOp:
    """One pass of one micro-batch through one stage."""

    kind: PassKind
    stage: int
    microbatch: int

    def __str__(self) -> str:
        """Return the text form ``<stage><kind><microbatch>``, e.g. ``3F17``."""
        return f"{self.stage}{self.kind}{self.microbatch}"


DeviceOps = tuple[tuple[PipelineOp, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSchedule:
    """Operations of every device in execution order, with their start times."""

    name: str
    work: PipelineWork
    device_ops: DeviceOps
    start_s: tuple[tuple[float, ...], ...]

    def makespan_s(self) -> float:
        """Return the time from the first start to the last end over all devices."""
        starts = [row[0] for row in self.start_s if row]
        return max(self._ends()) - min(starts)

    def longest_stage_s(self) -> float:
        """Return the longest time from a device's first start to its last end.

        This is the time per step when no barrier separates the steps (optimizer steps that wait for
        nobody); with a barrier it is the makespan that counts.
        """
        firsts = [row[0] for row in self.start_s if row]
        return max(end - first for end, first in zip(self._ends(), firsts, strict=True))

    def _ends(self) -> list[float]:
        return [
            starts[-1] + self.work.duration_s(ops[-1])
            for ops, starts in zip(self.device_ops, self.start_s, strict=True)
            if ops
        ]

    def peak_memory_bytes(self) -> tuple[float, ...]:
        """Return the peak activation memory of each device."""
        return tuple(peak_memory_bytes(self.work, ops) for ops in self.device_ops)


def memory_step_bytes(work: PipelineWork, op: PipelineOp) -> float:
    """Return what `op` adds to its device's memory: F at its start, the others (negative) at their end."""
    stage = work.stages[op.stage]
    if op.kind == "F":
        return stage.activation_bytes
    if op.kind == "I":
        return stage.weight_activation_bytes - stage.activation_bytes
    return -(stage.weight_activation_bytes if op.kind == "W" else stage.activation_bytes)


def peak_memory_bytes(work: PipelineWork, ops: Iterable[PipelineOp]) -> float:
    """Return the peak of the activation memory of a device that runs `ops` in order."""
    held = peak = 0.0
    for op in ops:
        held += memory_step_bytes(work, op)
        peak = max(peak, held)
    return peak


def check_work(work: PipelineWork) -> None:
    """Check that the work is well formed.

    Raises
    ------
    InputError
        If a time, a memory, a device or a route is out of range.
    """
    if work.num_devices < 1 or not work.stages or not work.routes:
        raise InputError("a pipeline needs at least one device, one stage and one micro-batch")
    if len(work.memory_limit_bytes) != work.num_devices:
        raise InputError(
            "one memory limit per device is needed", value=len(work.memory_limit_bytes), key="memory"
        )
    if not (math.isfinite(work.send_s) and work.send_s >= 0):
        raise InputError("a send takes a finite time of zero or more", value=work.send_s, key="send")
    links = work.link_send_s
    if links and (len(links) != len(work.stages) - 1 or not all(0 <= s < math.inf for s in links)):
        raise InputError("every link between stages takes a finite time of zero or more", key="link_send")
    for index, stage in enumerate(work.stages):
        _check_stage(stage, index, work.num_devices)
    for route in set(work.routes):
        if not route or len(set(route)) != len(route) or not all(0 <= s < len(work.stages) for s in route):
            raise InputError("a route visits existing stages, each once", value=route, key="routes")


def _check_stage(stage: PipelineStage, index: int, num_devices: int) -> None:
    key = f"stages[{index}]"
    if not 0 <= stage.device < num_devices:
        raise InputError("a stage sits on an existing device", value=stage.device, key=f"{key}.device")
    times = (stage.forward_s, stage.backward_input_s, stage.backward_weight_s)
    if not all(math.isfinite(t) and t >= 0 for t in times) or stage.work_s <= 0:
        raise InputError("pass times are finite, not negative and not all zero", value=times, key=key)
    held = (stage.activation_bytes, stage.weight_activation_bytes)
    if not all(math.isfinite(b) and b >= 0 for b in held) or held[1] > held[0]:
        raise InputError(
            "activation memory is finite and the part held for W is at most the whole",
            value=held,
            key=key,
        )


def uniform_work(  # noqa: PLR0913 - the parameters of a pipeline, each named
    *,
    num_devices: int,
    num_microbatches: int,
    pass_times_s: tuple[float, float, float],
    send_s: float = 0.0,
    num_chunks: int = 1,
    v_shape: bool = False,
    weight_memory_fraction: float = 0.5,
    memory_limit_bytes: float = math.inf,
) -> PipelineWork:
    """Return the work of equal stages, `num_chunks` on each device.

    `pass_times_s` (F, I, W) and one unit of activation memory are those of one micro-batch on one device;
    each of its chunks takes an equal part. Chunks are laid out in loops over the devices, or, with
    `v_shape`, forth and back.
    """
    stages: list[PipelineStage] = []
    for index in range(num_devices * num_chunks):
        lap, place = divmod(index, num_devices)
        back = v_shape and lap % 2 == 1
        stages.append(
            PipelineStage(
                device=num_devices - 1 - place if back else place,
                forward_s=pass_times_s[0] / num_chunks,
                backward_input_s=pass_times_s[1] / num_chunks,
                backward_weight_s=pass_times_s[2] / num_chunks,
                activation_bytes=1.0 / num_chunks,
                weight_activation_bytes=weight_memory_fraction / num_chunks,
            )
        )
    return PipelineWork(
        stages=tuple(stages),
        num_devices=num_devices,
        routes=(tuple(range(len(stages))),) * num_microbatches,
        send_s=send_s,
        memory_limit_bytes=(memory_limit_bytes,) * num_devices,
    )
