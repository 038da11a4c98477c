"""ZB-V: two chunks per device on a V; no bubble where all passes take equally long, at the memory of 1F1B."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineWork
from planner.space.building_block import build_v
from planner.space.schedule_family import ScheduleFamily


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders of the building block with slopes (1, 5, 1, 5), made for passes of equal length."""
    return build_v(work, "ZB-V", slopes=(1, 5, 1, 5), weights_last=True)


SCHEDULE = ScheduleFamily(
    title="ZB-V",
    layout="v",
    build=build,
    source="Qi et al., Pipeline Parallelism with Controllable Memory, NeurIPS 2024 (arXiv 2405.15362)",
)
