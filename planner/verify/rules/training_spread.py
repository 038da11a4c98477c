"""Pools of one pipeline over several groups join: stages and layers follow on, what all share is equal."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule
from planner.verify.training.view import JobView, jobs

_SHARED = (
    "global_batch",
    "seq_len",
    "micro_batch",
    "zero",
    "offload",
    "schedule",
    "num_stages",
    "cp_ulysses",
)


def _check(case: Case) -> Iterator[Violation]:
    found = [job for job in jobs(case) if job.settings.num_stages]
    if not found:
        return
    for message in (*_joined(found), *_shared(found)):
        yield Violation(message=message)


def _joined(found: list[JobView]) -> Iterator[str]:
    """Yield what is wrong with the order of stages and layers."""
    stage = layer = 0
    for job in sorted(found, key=lambda job: job.settings.first_stage):
        settings, name = job.settings, job.pool.name
        if settings.first_stage != stage or settings.first_layer != layer:
            yield (
                f"pool {name!r} begins at stage {settings.first_stage} and layer {settings.first_layer}, "
                f"before it end stage {stage} and layer {layer}"
            )
        if len(settings.recompute_stages) not in (0, job.strategy.pp):
            yield f"pool {name!r} says of {len(settings.recompute_stages)} stages what they recompute"
        stage, layer = stage + job.strategy.pp, layer + sum(settings.layers_per_chunk)
    num_layers = len(found[0].problem.payload.model.layers)
    if layer != num_layers:
        yield f"the stages hold {layer} layers of {num_layers}"
    if stage != found[0].settings.num_stages:
        yield f"there are {stage} stages of {found[0].settings.num_stages}"


def _shared(found: list[JobView]) -> Iterator[str]:
    first = found[0]
    for job in found[1:]:
        for name in _SHARED:
            if getattr(job.settings, name) != getattr(first.settings, name):
                yield f"pools {first.pool.name!r} and {job.pool.name!r} differ in {name}"
        if (job.strategy.dp, job.strategy.cp) != (first.strategy.dp, first.strategy.cp):
            yield f"pools {first.pool.name!r} and {job.pool.name!r} differ in their data or context ranks"
        if job.pool.weight_dtype != first.pool.weight_dtype:
            yield f"pools {first.pool.name!r} and {job.pool.name!r} differ in precision"


RULE = Rule(
    says="pools of one pipeline follow on one another and share their degrees",
    check=_check,
    kinds=TRAINING,
    requires=("training-choices",),
)
