"""ZB-H2: a doubled warm-up closes the bubble before the first backward pass, at twice the memory."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineWork
from planner.space.schedule_family import ScheduleFamily, require_chain
from planner.space.zero_bubble_orders import handcrafted


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders: device i runs 2(p - 1 - i) forward passes ahead."""
    require_chain(work, "ZB-H2")
    return handcrafted(work, warmup_per_device=2)


SCHEDULE = ScheduleFamily(
    title="ZB-H2",
    layout="chain",
    build=build,
    source="Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024 (arXiv 2401.10241), section 2.2",
)
