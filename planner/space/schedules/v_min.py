"""V-Min: two chunks per device on a V; about two thirds of 1F1B's bubble at about a third of its memory."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineWork
from planner.space.building_block import build_v
from planner.space.schedule_family import ScheduleFamily


def build(work: PipelineWork) -> DeviceOps:
    """Return the orders of the building block with slopes (1, 1, 1, 1), made for passes of equal length."""
    return build_v(work, "V-Min", slopes=(1, 1, 1, 1), weights_last=False)


SCHEDULE = ScheduleFamily(
    title="V-Min",
    layout="v",
    build=build,
    source="Qi et al., Pipeline Parallelism with Controllable Memory, NeurIPS 2024 (arXiv 2405.15362)",
)
