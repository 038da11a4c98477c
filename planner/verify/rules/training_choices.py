"""Every decision of a training plan is one that the user left open, and the batch is the user's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.training import TrainingProblem
from planner.plan.schema import Pool, TrainingSettings
from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    payload = cast("TrainingProblem", case.problem.payload)
    spread = all(pool.training is not None and pool.training.num_stages for pool in case.plan.pools)
    shared = all(pool.training is not None and pool.training.share for pool in case.plan.pools)
    if len(case.plan.pools) != 1 and not spread and not shared:
        yield Violation(message=f"a training plan is one job, this has {len(case.plan.pools)}")
    for pool in case.plan.pools:
        if pool.training is None:
            yield Violation(message=f"pool {pool.name!r} does not say how it trains")
            continue
        for message in (*_batch(payload, pool.training), *_open(payload, pool, pool.training)):
            yield Violation(message=f"pool {pool.name!r}: {message}")


def _batch(payload: TrainingProblem, settings: TrainingSettings) -> Iterator[str]:
    workload = payload.workload
    for name, own, asked in (
        ("global batch", settings.global_batch, workload.global_batch),
        ("sequence length", settings.seq_len, workload.seq_len),
    ):
        if own != asked:
            yield f"{name} {own}, asked was {asked}"


def _open(payload: TrainingProblem, pool: Pool, settings: TrainingSettings) -> Iterator[str]:
    choices = payload.choices
    fixed = dict(choices.fixed)
    values: dict[str, object] = {
        **pool.strategy.model_dump(),
        **settings.model_dump(),
        "precision": pool.weight_dtype,
    }
    if settings.num_stages:
        values["pp"] = settings.num_stages
    for what, allowed in (
        ("precision", choices.precisions),
        ("recompute", choices.recomputes),
        ("offload", choices.offloads),
        ("zero", choices.zeros),
        ("gradients", choices.gradients),
    ):
        if what not in fixed and values[what] not in allowed:
            yield f"{what} {values[what]!r} is not among {', '.join(map(str, allowed))}"
    yield from _recomputed(settings, fixed, choices.recomputes)
    if "schedule" not in fixed and pool.strategy.pp > 1 and settings.schedule not in choices.schedules:
        yield f"schedule {settings.schedule!r} is not among {', '.join(choices.schedules)}"
    for name, value in fixed.items():
        alone = name == "schedule" and pool.strategy.pp == 1
        unshared = name == "dp_shard" and settings.zero == 0
        if values.get(name) != value and not alone and not unshared:
            yield f"{name}={values.get(name)}, pinned is {value}"
    if pool.model != payload.model.name:
        yield f"model {pool.model!r}, asked was {payload.model.name!r}"
    if pool.replicas != 1:
        yield f"{pool.replicas} jobs, asked was one"


def _recomputed(
    settings: TrainingSettings, fixed: dict[str, int | str | bool], allowed: tuple[str, ...]
) -> Iterator[str]:
    """Yield ways of recomputing, of single stages or of some layers, that were not allowed."""
    own = [(stage.recompute, stage.layers) for stage in settings.recompute_stages]
    for way, layers in own or [(settings.recompute, settings.recompute_layers)]:
        used = {way, "none"} if layers else {way}
        if "recompute" not in fixed and not used <= set(allowed):
            yield f"recompute {way!r} of {layers or 'all'} layers is not among {', '.join(allowed)}"
        elif own and way != fixed.get("recompute", way):
            yield f"recompute {way!r}, pinned is {fixed['recompute']!r}"


RULE = Rule(
    says="every decision was open to the plan, and the batch is the user's",
    check=_check,
    kinds=TRAINING,
    requires=("well-formed",),
)
