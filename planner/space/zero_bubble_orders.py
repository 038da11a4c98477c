"""Orders of the handcrafted zero-bubble schedules on a chain of stages."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork
from planner.space.schedule_family import op


def handcrafted(work: PipelineWork, *, warmup_per_device: int) -> DeviceOps:
    """Return orders in which device i runs ahead by `warmup_per_device` (p - 1 - i) forward passes.

    Every device starts its first weight gradient at the same step, so that those of the later devices
    pile up and fill the drain.
    """
    count, last = work.num_microbatches, work.num_devices - 1
    rows: list[tuple[PipelineOp, ...]] = []
    for device in range(work.num_devices):
        warmup = min(warmup_per_device * (last - device), count)
        ops = [op("F", device, m) for m in range(warmup)]
        done = 0
        for m in range(count):
            if warmup + m < count:
                ops.append(op("F", device, warmup + m))
            ops.append(op("I", device, m))
            if warmup + m >= warmup_per_device * last:
                ops.append(op("W", device, done))
                done += 1
        ops += [op("W", device, m) for m in range(done, count)]
        rows.append(tuple(ops))
    return tuple(rows)
