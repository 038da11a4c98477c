"""What a named pipeline schedule is, and the layouts of stages that the named ones use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from planner.errors import InputError
from planner.ir.pipeline_schedule import (
    DeviceOps,
    PassKind,
    PipelineOp,
    PipelineWork,
    uniform_work,
)
from planner.registry import Registry

Layout = Literal["chain", "loop", "v", "two_way"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleFamily:
    """A named schedule: how its stages lie on the devices and how the operations are ordered.

    Parameters
    ----------
    title
        Name as people write it.
    layout
        ``chain``: one stage per device; ``loop``: several, in laps; ``v``: two, forth and back;
        ``two_way``: two copies of the model, half of the micro-batches entering at either end.
    build
        Returns the order of operations of every device; raises InputError where the schedule is not
        defined for the work.
    source
        Where the schedule was published.
    """

    title: str
    layout: Layout
    build: Callable[[PipelineWork], DeviceOps]
    source: str


FAMILIES: Registry[ScheduleFamily] = Registry(
    what="pipeline schedule", package="planner.space.schedules", attribute="SCHEDULE"
)


def op(kind: PassKind, stage: int, microbatch: int) -> PipelineOp:
    """Return one operation."""
    return PipelineOp(kind=kind, stage=stage, microbatch=microbatch)


def arrange(  # noqa: PLR0913 - the parameters of a pipeline, each named
    layout: Layout,
    *,
    num_devices: int,
    num_microbatches: int,
    pass_times_s: tuple[float, float, float],
    send_s: float = 0.0,
    num_chunks: int = 2,
    weight_memory_fraction: float = 0.5,
    memory_limit_bytes: float = math.inf,
) -> PipelineWork:
    """Return the work of equal stages laid out as `layout` asks (`num_chunks` counts for ``loop`` alone).

    Times and one unit of memory are those of one micro-batch on one device.

    Raises
    ------
    InputError
        If a two-way layout is asked for an odd number of devices or micro-batches.
    """
    chunks = {"chain": 1, "loop": num_chunks, "v": 2, "two_way": 1}[layout]
    work = uniform_work(
        num_devices=num_devices,
        num_microbatches=num_microbatches,
        pass_times_s=pass_times_s,
        send_s=send_s,
        num_chunks=chunks,
        v_shape=layout == "v",
        weight_memory_fraction=weight_memory_fraction,
        memory_limit_bytes=memory_limit_bytes,
    )
    return _both_ways(work) if layout == "two_way" else work


def _both_ways(work: PipelineWork) -> PipelineWork:
    count = work.num_devices
    if count % 2 or work.num_microbatches % 2:
        raise InputError(
            "a two-way pipeline needs even numbers of devices and micro-batches",
            value=(count, work.num_microbatches),
        )
    mirrored = tuple(replace(s, device=count - 1 - s.device) for s in work.stages)
    half = work.num_microbatches // 2
    forth, back = tuple(range(count)), tuple(range(count, 2 * count))
    return replace(work, stages=work.stages + mirrored, routes=(forth,) * half + (back,) * half)


def require_chain(work: PipelineWork, title: str) -> None:
    """Check that stage i alone sits on device i and every micro-batch visits all stages in order.

    Raises
    ------
    InputError
        Otherwise.
    """
    require_layout(work, title, 1)


def require_layout(work: PipelineWork, title: str, num_chunks: int, *, v_shape: bool = False) -> None:
    """Check that the stages are `num_chunks` laps over the devices (or forth and back), visited in order.

    Raises
    ------
    InputError
        Otherwise.
    """
    count = work.num_devices
    expected = tuple(range(count))
    devices = expected + (tuple(reversed(expected)) if v_shape else expected * (num_chunks - 1))
    every = tuple(range(len(work.stages)))
    if tuple(s.device for s in work.stages) != devices or any(r != every for r in work.routes):
        raise InputError(f"{title} is not defined for this layout of stages or for partial routes")
