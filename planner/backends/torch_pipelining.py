"""torch.distributed.pipelining: a training job's schedule as the CSV of its runtime, and its stages."""

from __future__ import annotations

import json
from dataclasses import dataclass

from planner.backends._protocol import (
    ONE_GROUP,
    SERVING_DEGREES,
    Capabilities,
    ExportedFile,
    ExportOptions,
)
from planner.backends._training import NO_CACHE, ROLE, Job, job_of, readme
from planner.backends._training_schedule import schedule_text
from planner.plan.schema import Plan, TrainingSettings

CAPABILITIES = Capabilities(
    kinds=frozenset({"training"}),
    engines=frozenset(),
    roles=frozenset({ROLE}),
    degrees=frozenset({"tp", "pp", "dp", "cp", "ep", "etp", "num_chunks"}),
    limits=frozenset(),
    weight_dtypes=dict.fromkeys(("bf16", "fp16", "fp8", "fp8_block", "nvfp4"), ""),
    kv_dtypes=NO_CACHE,
    refused_degrees=SERVING_DEGREES,
    settings=frozenset(TrainingSettings.model_fields) - ONE_GROUP.keys(),
    refused_settings=ONE_GROUP,
)


def _stages(job: Job) -> str:
    """Return which layers every stage holds, and on which pipeline rank it runs."""
    s, start = job.pool.strategy, 0
    found: list[dict[str, int]] = []
    for stage, count in enumerate(job.settings.layers_per_chunk):
        lap, place = divmod(stage, s.pp)
        back = job.settings.schedule == "zb-v" and lap % 2 == 1
        rank = s.pp - 1 - place if back else place
        found.append({"stage": stage, "rank": rank, "first_layer": start, "num_layers": count})
        start += count
    micro = {"num_microbatches": job.num_micro, "microbatch_size": job.settings.micro_batch}
    return json.dumps({**micro, "stages": found}, indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchPipeliningBackend:
    """Writes the schedule for ``_PipelineScheduleRuntime``; what runs inside a stage is yours."""

    name: str = "torch-pipelining"
    capabilities: Capabilities = CAPABILITIES

    def export(self, plan: Plan, options: ExportOptions) -> tuple[ExportedFile, ...]:
        """Return ``schedule.csv``, ``stages.json`` and a README.

        Raises
        ------
        InputError
            If the plan has nothing to launch.
        UnsupportedError
            If the job has no pipeline.
        """
        job = job_of(self.name, self.capabilities, plan)
        if job.pool.strategy.pp == 1:
            raise job.refuse("pp", "this job has no pipeline", hint="Plan with --fix pp=2 or more.")
        notes = [
            "`schedule.csv` is in the `compute_only` format of `_PipelineScheduleRuntime._load_csv`.",
            "`stages.json` says which layers a stage holds and which pipeline rank runs it. Degrees inside a "
            "stage, sharding, recomputation and precision are those of the list above: your stages set them.",
        ]
        return (
            readme(job, "torch.distributed.pipelining (torch 2.13)", notes, options),
            ExportedFile(path="schedule.csv", text=schedule_text(job)),
            ExportedFile(path="stages.json", text=_stages(job)),
        )


BACKEND = TorchPipeliningBackend()
