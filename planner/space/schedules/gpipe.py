"""GPipe: all forward passes, then all backward passes."""

from __future__ import annotations

from planner.ir.pipeline_schedule import DeviceOps, PipelineWork
from planner.space.schedule_family import ScheduleFamily, op, require_chain


def build(work: PipelineWork) -> DeviceOps:
    """Return forwards of all micro-batches, then backwards in the same order, on every device."""
    require_chain(work, "GPipe")
    batches = range(work.num_microbatches)
    return tuple(
        tuple(op(kind, d, m) for kind in ("F", "B") for m in batches) for d in range(work.num_devices)
    )


SCHEDULE = ScheduleFamily(
    title="GPipe", layout="chain", build=build, source="Huang et al., GPipe, NeurIPS 2019 (arXiv 1811.06965)"
)
