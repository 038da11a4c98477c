"""Explains training plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

from planner.errors import InputError
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.ir.training_fix import fix_name, fixed_value
from planner.plan.schema import Plan
from planner.report.explanation import Bottleneck, Variation
from planner.report.figures import figure, percent
from planner.report.hardware_changes import faster_links, lifted_budgets, more_devices, twice_the_nodes

TrainingCase = Problem[TrainingProblem]

_TERMS = {
    "compute_s": "compute",
    "layer_comm_s": "communication inside layers",
    "bubble_s": "pipeline bubble",
    "pipeline_comm_s": "sends between stages",
    "data_parallel_s": "gradients and parameters between replicas",
    "optimizer_s": "optimizer",
    "overhead_s": "host",
    "straggler_s": "waiting for slow nodes",
    "exchange_s": "exchange between groups",
    "imbalance_s": "waiting for the fullest ranks",
}
_DAY_S = 86400.0


class TrainingExplainer:
    """Knows which changes of a training problem are worth asking about."""

    def facts(self, problem: TrainingCase, plan: Plan) -> list[str]:
        """Return sentences on the run, the devices, the shape of the job and its memory."""
        return [*_run_facts(problem, plan), *_shape_facts(problem, plan), *_memory_facts(plan)]

    def bottlenecks(self, problem: TrainingCase, plan: Plan) -> list[Bottleneck]:
        """Return what a step is made of."""
        del problem
        terms = plan.details.get("step_time_terms_s")
        step = plan.predicted.get("step_time_s")
        if not isinstance(terms, dict) or step is None or not step.value or not plan.pools:
            return []
        shares = {
            _TERMS.get(name, name): value / step.value
            for name, value in cast("dict[str, float]", terms).items()
        }
        ordered = tuple(sorted(shares.items(), key=lambda pair: -pair[1]))
        return [Bottleneck(pool=plan.pools[0].name, step="one step", step_s=step.value, shares=ordered)]

    def variations(self, problem: TrainingCase, plan: Plan) -> list[Variation]:
        """Return each limit lifted, more nodes, each kind of link twice as fast, and every choice allowed."""
        if plan.status == "infeasible":
            return []
        return [
            *_lifted_limits(problem),
            *lifted_budgets(problem),
            *_freed_choices(problem),
            *more_devices(problem),
            *twice_the_nodes(problem),
            *faster_links(problem),
            *_more_memory(problem),
        ]

    def fixed(self, problem: TrainingCase, choices: Mapping[str, object]) -> TrainingCase:
        """Return the problem with degrees and choices fixed.

        Raises
        ------
        InputError
            If there is no such choice, or its value is not one.
        """
        fixed = dict(problem.payload.choices.fixed)
        for name, value in choices.items():
            try:
                fixed[fix_name(name)] = fixed_value(fix_name(name), value)
            except InputError as error:
                raise error.located(key=name) from None
        pinned = replace(problem.payload.choices, fixed=tuple(sorted(fixed.items())))
        return replace(problem, payload=replace(problem.payload, choices=pinned))


def _run_facts(problem: TrainingCase, plan: Plan) -> Iterator[str]:
    workload, found = problem.payload.workload, plan.predicted
    if "mfu" in found:
        yield f"It uses {percent(round(found['mfu'].value, 4))} of the devices' 16-bit peak for the model."
    if workload.num_tokens is not None and "run_time_s" in found:
        days = found["run_time_s"].value / _DAY_S
        cost = f" and {figure(found['run_usd'].value, 'USD')}" if "run_usd" in found else ""
        yield f"The run of {figure(workload.num_tokens, 'tokens')} takes {days:.3g} days{cost}."
    if workload.deadline_s is not None and "run_time_s" in found:
        share = found["run_time_s"].value / workload.deadline_s
        yield f"That is {percent(round(share, 3))} of what the deadline allows."


def _shape_facts(problem: TrainingCase, plan: Plan) -> Iterator[str]:
    used = sum(len(seat.devices) for seat in plan.placement)
    total = problem.cluster.num_devices
    rest = "and leaves the others free" if used < total else "all there are"
    yield f"It uses {used} of {total} devices, {rest}."
    for pool in plan.pools:
        settings = pool.training
        if settings is None:
            continue
        if settings.rank_tokens:
            yield from _length_facts(plan)
            continue
        micro = settings.sequences // (pool.strategy.dp * settings.micro_batch)
        tokens = f"{settings.micro_batch} x {settings.seq_len} tokens"
        where = f" of {pool.node_group}" if len(plan.pools) > 1 else ""
        yield f"A rank{where} runs {micro} micro-batches of {tokens} per step."
    yield from _between_facts(plan)


def _length_facts(plan: Plan) -> Iterator[str]:
    """Yield how batches of different lengths lie on ranks, and what one degree for all would take."""
    found = cast("dict[str, Any]", plan.details.get("lengths", {}))
    step = plan.predicted["step_time_s"].value
    yield f"A micro-batch holds up to {found['rank_tokens']} tokens on each of its ranks."
    for number, batch in enumerate(found["batches"]):
        degrees = cast("dict[str, int]", batch["groups_by_degree"])
        ordered = sorted(degrees, key=int, reverse=True)
        groups = ", ".join(f"{degrees[degree]} of {degree}" for degree in ordered)
        time = figure(batch["time_s"], "s")
        yield f"Batch {number} of {batch['tokens']} tokens takes {time} on groups of ranks: {groups}."
    uniform, wide = found["uniform_step_s"], found["padded_step_s"]
    if uniform is not None:
        yield f"With one degree for all sequences of a batch a step takes {uniform / step:.3g} times as long."
    if wide is not None:
        yield f"With every sequence padded to the longest it takes {wide / step:.3g} times as long."


def _between_facts(plan: Plan) -> Iterator[str]:
    """Yield how a batch is split between groups, and what an outer loop takes beside its runners-up."""
    shares = cast("list[dict[str, Any]]", plan.details.get("shares", []))
    for share in shares:
        own = figure(share["own_step_s"], "s")
        yield f"{share['group']} runs {share['sequences']} sequences of a step, in {own} of its own."
    terms = cast("dict[str, float]", plan.details.get("step_time_terms_s", {}))
    found = cast("dict[str, Any]", plan.details.get("outer_loop", {}))
    loop = plan.pools[0].training.outer_loop if plan.pools and plan.pools[0].training else None
    if shares and loop is None:
        yield f"They reduce gradients with one another in {figure(terms.get('exchange_s'), 's')} per step."
    if loop is None or not found:
        return
    yield (
        f"They exchange what they have learnt every {loop.steps} steps, {loop.bits} bit per value in "
        f"{loop.fragments} parts of {figure(found['part_bytes'], 'B')}, each in "
        f"{figure(found['part_exchange_s'], 's')} over {loop.overlap_steps} steps of compute: they "
        f"compute {percent(round(found['utilisation'], 4))} of the time."
    )
    for setting in found["settings"]:
        if all(setting[name] == getattr(loop, name) for name in ("fragments", "overlap_steps", "bits")):
            step = figure(setting["step_time_s"], "s")
            less = f"{setting['less_traffic']:.4g} times less traffic than gradients in every step"
            yield f"With {setting['steps']} local steps a step takes {step} in the mean, with {less}."


def _memory_facts(plan: Plan) -> Iterator[str]:
    for pool in plan.pools:
        fullest = max(pool.memory, key=lambda m: m.used_bytes / max(m.capacity_bytes, 1.0), default=None)
        if fullest is None:
            continue
        share = fullest.used_bytes / max(fullest.capacity_bytes, 1.0)
        parts = sorted(fullest.parts, key=lambda part: -part.num_bytes)[:3]
        words = ", ".join(f"{part.name} {figure(part.num_bytes, 'B')}" for part in parts)
        where = f" of {pool.node_group}" if len(plan.pools) > 1 else ""
        full = percent(round(share, 3))
        yield f"Stage {fullest.stage}{where} is the fullest: {full} of its memory ({words})."


def _lifted_limits(problem: TrainingCase) -> Iterator[Variation]:
    payload = problem.payload
    if payload.workload.deadline_s is not None:
        free = replace(payload.workload, deadline_s=None)
        yield Variation(
            sort="limit",
            change=f"done within {figure(payload.workload.deadline_s, 's')}",
            problem=replace(problem, payload=replace(payload, workload=free)),
        )
    for name, value in payload.choices.fixed:
        rest = tuple(pair for pair in payload.choices.fixed if pair[0] != name)
        choices = replace(payload.choices, fixed=rest)
        yield Variation(
            sort="limit",
            change=f"{name} fixed to {value}",
            problem=replace(problem, payload=replace(payload, choices=choices)),
        )
    yield Variation(
        sort="limit",
        change=f"the memory of {problem.cluster.groups[0].device.name}",
        problem=_with_memory(problem, 2.0),
    )


def _freed_choices(problem: TrainingCase) -> Iterator[Variation]:
    payload = problem.payload
    if len(payload.choices.offloads) == 1:
        choices = replace(payload.choices, offloads=("none", "optimizer", "optimizer_and_parameters"))
        yield Variation(
            sort="limit",
            change="no offload to the host",
            problem=replace(problem, payload=replace(payload, choices=choices)),
        )


def _more_memory(problem: TrainingCase) -> Iterator[Variation]:
    yield Variation(
        sort="resource",
        change="a tenth more memory per device",
        problem=_with_memory(problem, 1.1),
    )


def _with_memory(problem: TrainingCase, times: float) -> TrainingCase:
    """Return the problem on devices with `times` the memory."""
    groups = tuple(
        replace(
            group,
            device=group.device.model_copy(
                update={
                    "memory_bytes": group.device.memory_bytes.model_copy(
                        update={"value": group.device.memory_bytes.value * times}
                    )
                }
            ),
        )
        for group in problem.cluster.groups
    )
    return replace(problem, cluster=replace(problem.cluster, groups=groups))


EXPLAINER = TrainingExplainer()
