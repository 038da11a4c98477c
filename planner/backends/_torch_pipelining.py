"""Schedules for torch.distributed.pipelining: the CSV that its schedule runtime loads.

Written for the ``compute_only`` format of ``_PipelineScheduleRuntime._load_csv`` in torch 2.13: one line per
pipeline rank, cells ``<stage><F|I|W|B><micro-batch>`` in execution order; the runtime adds sends and
receives itself and reads from the file which rank holds which stage.
"""

from __future__ import annotations

from dataclasses import replace

from planner.errors import UnsupportedError
from planner.ir.pipeline_schedule import PipelineSchedule, PipelineWork


def as_torch_runs_it(work: PipelineWork) -> PipelineWork:
    """Return the work with the first stage as the runtime treats it.

    Its input needs no gradient: there, I does nothing and W runs the whole backward pass, so that all of
    the activation is held until W. Nobody waits for the first stage's I, so that no time is lost by it.
    """
    first = {route[0] for route in work.routes}
    stages = tuple(
        replace(
            stage,
            backward_input_s=0.0,
            backward_weight_s=stage.backward_input_s + stage.backward_weight_s,
            weight_activation_bytes=stage.activation_bytes,
        )
        if index in first
        else stage
        for index, stage in enumerate(work.stages)
    )
    return replace(work, stages=stages)


def torch_csv(schedule: PipelineSchedule) -> str:
    """Return the CSV text.

    Raises
    ------
    UnsupportedError
        If some micro-batch does not visit all stages in order, or a rank has nothing to do: the
        runtime knows no such schedules.
    """
    work = schedule.work
    every = tuple(range(len(work.stages)))
    if any(route != every for route in work.routes):
        raise UnsupportedError(
            "torch.distributed.pipelining runs every micro-batch through all stages in order",
            key="routes",
            value=next(route for route in work.routes if route != every),
            hint="Two-way schedules (dualpipe) and partial paths cannot be expressed.",
        )
    idle = [d for d, ops in enumerate(schedule.device_ops) if not ops]
    if idle:
        raise UnsupportedError("every rank needs a stage", key="stages", value=idle)
    return "".join(",".join(str(op) for op in ops) + "\n" for ops in schedule.device_ops)
