"""Interleaved 1F1B: several chunks per device, visited in laps, each lap by p micro-batches."""

from __future__ import annotations

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork
from planner.space.schedule_family import ScheduleFamily, op, require_layout


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders; device i runs 2(p - 1 - i) + (v - 1)p forward passes of chunks ahead.

    Raises
    ------
    InputError
        If the number of micro-batches is not a multiple of the number of devices.
    """
    num_devices, count = work.num_devices, work.num_microbatches
    chunks, rest = divmod(len(work.stages), num_devices)
    if rest or count % num_devices:
        raise InputError(
            "interleaved 1F1B needs equal chunks and a multiple of the devices as micro-batches",
            value=count,
            allowed=f"multiples of {num_devices}",
        )
    require_layout(work, "interleaved 1F1B", chunks)
    return tuple(_device(d, num_devices, chunks, count) for d in range(num_devices))


def _device(device: int, num_devices: int, chunks: int, count: int) -> tuple[PipelineOp, ...]:
    def visit(turn: int, *, backward: bool) -> PipelineOp:
        lap, place = divmod(turn, num_devices * chunks)
        chunk, member = divmod(place, num_devices)
        if backward:
            chunk = chunks - 1 - chunk
        return op("B" if backward else "F", chunk * num_devices + device, lap * num_devices + member)

    turns = count * chunks
    warmup = min(2 * (num_devices - 1 - device) + (chunks - 1) * num_devices, turns)
    ops = [visit(t, backward=False) for t in range(warmup)]
    for turn in range(turns):
        if warmup + turn < turns:
            ops.append(visit(warmup + turn, backward=False))
        ops.append(visit(turn, backward=True))
    return tuple(ops)


SCHEDULE = ScheduleFamily(
    title="interleaved 1F1B",
    layout="loop",
    build=build,
    source="Narayanan et al., Efficient large-scale language model training, SC 2021 (arXiv 2104.04473)",
)
