"""The operations of a training job's pipeline schedule, as torch.distributed.pipelining reads them."""

from __future__ import annotations

from planner.backends._torch_pipelining import torch_csv
from planner.backends._training import Job
from planner.ir.pipeline_schedule import uniform_work
from planner.space.schedule_family import FAMILIES
from planner.space.schedule_timing import timed

_FAMILY = {"interleaved": "interleaved-1f1b"}


def schedule_text(job: Job) -> str:
    """Return one line per pipeline rank: what it runs, in order, for one step of one data-parallel rank."""
    name = job.settings.schedule
    work = uniform_work(
        num_devices=job.pool.strategy.pp,
        num_microbatches=job.num_micro,
        pass_times_s=(1.0, 1.0, 1.0),
        num_chunks=job.pool.strategy.num_chunks,
        v_shape=name == "zb-v",
    )
    family = FAMILIES.get(_FAMILY.get(name, name))
    return torch_csv(timed(work, family.build(work), family.title))
