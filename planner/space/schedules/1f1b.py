"""1F1B: after a warm-up, one forward and one backward pass in turn."""  # noqa: N999 - its name

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork
from planner.space.schedule_family import ScheduleFamily, op, require_chain


def _device(device: int, warmup: int, count: int) -> tuple[PipelineOp, ...]:
    ops = [op("F", device, m) for m in range(warmup)]
    for m in range(count):
        if warmup + m < count:
            ops.append(op("F", device, warmup + m))
        ops.append(op("B", device, m))
    return tuple(ops)


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders: device i runs p - 1 - i forward passes ahead, so it never holds more than p - i."""
    require_chain(work, "1F1B")
    count, last = work.num_microbatches, work.num_devices - 1
    return tuple(_device(d, min(last - d, count), count) for d in range(work.num_devices))


SCHEDULE = ScheduleFamily(
    title="1F1B",
    layout="chain",
    build=build,
    source="Narayanan et al., PipeDream, SOSP 2019; synchronous form: Fan et al., DAPPLE, PPoPP 2021",
)
