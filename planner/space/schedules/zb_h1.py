"""ZB-H1: 1F1B with the backward pass split; weight gradients fill the drain."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineWork
from planner.space.schedule_family import ScheduleFamily, require_chain
from planner.space.zero_bubble_orders import handcrafted


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders: warm-up as in 1F1B, device i keeps i weight gradients for the end."""
    require_chain(work, "ZB-H1")
    return handcrafted(work, warmup_per_device=1)


SCHEDULE = ScheduleFamily(
    title="ZB-H1",
    layout="chain",
    build=build,
    source="Qi et al., Zero Bubble Pipeline Parallelism, ICLR 2024 (arXiv 2401.10241), section 2.1",
)
