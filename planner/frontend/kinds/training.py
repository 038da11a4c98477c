"""``kind: training``: one model trained on one cluster with a fixed global batch."""

from __future__ import annotations

from typing import cast

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_trainer
from planner.diagnostics import Diagnostics
from planner.errors import InputError, UnknownNameError
from planner.frontend.spec_inputs import cluster_input, model_input
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import validated
from planner.frontend.training_spec import GOALS, TrainingSpec
from planner.ir.cluster import Cluster
from planner.ir.model_graph import ModelGraph
from planner.ir.objective import Objective
from planner.ir.problem import Problem
from planner.ir.training import (
    Gradients,
    Offload,
    OuterChoices,
    Recompute,
    TrainingChoices,
    TrainingProblem,
    TrainingWorkload,
)
from planner.ir.training_fix import fix_name, fixed_value

SPEC = TrainingSpec
RUN_BY = {"megatron-lm": ("1f1b", "interleaved")}
"""Pipeline schedules that training software runs, where that is less than what torch can run."""
PARTIAL_RECOMPUTE = frozenset({"megatron-lm"})
"""Training software that can recompute some layers of a chunk (--recompute-method block)."""
EVERYWHERE = ("1f1b", "interleaved", "zb-h1")


def read(tree: SpecTree, diagnostics: Diagnostics) -> Problem[TrainingProblem]:
    """Return the training problem that a spec states.

    Raises
    ------
    InputError
        If anything in the spec is wrong.
    """
    spec = validated(tree, TrainingSpec)
    model = model_input(tree, spec.model, diagnostics, assume_family=spec.assume_family)
    cluster = cluster_input(tree, spec.cluster, diagnostics)
    workload = _workload(tree, spec, diagnostics)
    payload = TrainingProblem(
        model=model,
        workload=workload,
        choices=_choices(tree, spec, diagnostics),
        flash_attention=spec.flash_attention,
        memory_reserve_bytes=spec.memory_reserve,
        assumptions=(f"read as {model.assumed_family}",) if model.assumed_family else (),
    )
    _check_length(model, workload, diagnostics)
    return Problem(
        kind="training",
        name=spec.name or f"{model.name} trained on {cluster.name}",
        cluster=cluster,
        objective=_objective(tree, spec, cluster, diagnostics),
        budget=spec.budget.lowered(),
        options=spec.search.lowered(),
        payload=payload,
        inputs=tuple(tree.digests),
    )


def _workload(tree: SpecTree, spec: TrainingSpec, diagnostics: Diagnostics) -> TrainingWorkload:
    section = spec.workload
    if section.deadline is not None and section.tokens is None:
        raise tree.error(
            "a deadline needs the tokens of the run", ("workload", "deadline"), hint="State workload.tokens."
        )
    if section.deadline == 0:
        raise tree.error("no run takes no time", ("workload", "deadline"), value=0)
    found = TrainingWorkload(
        global_batch=section.global_batch,
        seq_len=section.seq_len,
        num_tokens=section.tokens,
        deadline_s=section.deadline,
    )
    if found.num_tokens is not None and found.num_tokens < found.tokens_per_step:
        diagnostics.warn(
            "training-short-run",
            f"one step trains {found.tokens_per_step:.4g} tokens, more than the run's {found.num_tokens:.4g}",
        )
    return found


def _choices(tree: SpecTree, spec: TrainingSpec, diagnostics: Diagnostics) -> TrainingChoices:
    try:
        engine = load_trainer(spec.software).engine
    except ProfileError as error:
        message = InputError(error.message, value=spec.software, allowed=error.allowed or None)
        raise tree.located(message, ("software",)) from None
    except InputError as error:
        raise tree.located(error, ("software",)) from None
    fixed: dict[str, int | str | bool] = {}
    for name, value in spec.fix.items():
        try:
            key = fix_name(name)
            if key in fixed:
                raise InputError("is pinned twice", value=name)
            fixed[key] = fixed_value(key, value)
        except InputError as error:
            raise tree.located(error, ("fix", name)) from None
    return TrainingChoices(
        precisions=tuple(spec.precision),
        recomputes=cast("tuple[Recompute, ...]", tuple(spec.recompute)),
        zeros=tuple(sorted(set(spec.zero))),
        offloads=cast("tuple[Offload, ...]", tuple(spec.offload)),
        schedules=_schedules(spec, engine, fixed, diagnostics),
        max_micro_batch=spec.max_micro_batch,
        software=spec.software,
        fixed=tuple(sorted(fixed.items())),
        gradients=cast("tuple[Gradients, ...]", tuple(spec.gradients)),
        outer_loop=_outer_loop(tree, spec),
        partial_recompute=engine in PARTIAL_RECOMPUTE,
    )


def _outer_loop(tree: SpecTree, spec: TrainingSpec) -> OuterChoices | None:
    section = spec.outer_loop
    if section is None:
        return None
    least = min(section.fragments) * max(min(section.overlap_steps), 1)
    if max(section.steps) < least:
        raise tree.error(
            "no exchange is over before the next one begins",
            ("outer_loop", "steps"),
            value=max(section.steps),
            allowed=f"{least} or more: fragments times overlap_steps",
        )
    return OuterChoices(
        steps=tuple(section.steps),
        bits=tuple(section.bits),
        fragments=tuple(section.fragments),
        overlap_steps=tuple(section.overlap_steps),
    )


def _schedules(
    spec: TrainingSpec, engine: str, fixed: dict[str, int | str | bool], diagnostics: Diagnostics
) -> tuple[str, ...]:
    """Return the schedules allowed: those stated, or those that the training software runs."""
    if spec.schedule is not None:
        return tuple(spec.schedule)
    found = RUN_BY.get(engine, EVERYWHERE)
    if "schedule" not in fixed:
        diagnostics.note(
            "schedule-default",
            f"pipelines run {' or '.join(found)}, as {engine} does; others must be allowed (--schedule)",
        )
    return found


def _check_length(model: ModelGraph, workload: TrainingWorkload, diagnostics: Diagnostics) -> None:
    most = model.max_position
    if most and workload.seq_len > most:
        diagnostics.warn(
            "training-long-sequences",
            f"sequences of {workload.seq_len} tokens are longer than the {most} positions of {model.name}",
        )


def _objective(tree: SpecTree, spec: TrainingSpec, cluster: Cluster, diagnostics: Diagnostics) -> Objective:
    """Return the objective: the shortest step, unless another is stated or a deadline makes it money."""
    name = spec.objective.name
    priced = all(group.usd_per_device_hour is not None for group in cluster.groups)
    if name is None:
        name = "min_cost" if spec.workload.deadline is not None and priced else "min_step_time"
        diagnostics.note("objective-default", f"no objective is stated, so it is {name}")
    if name not in GOALS:
        raise tree.located(UnknownNameError("objective", name, GOALS), ("objective",))
    if name == "min_cost" and not priced:
        raise tree.error(
            "some devices have no price",
            ("objective",),
            value=name,
            hint="Give usd_per_device_hour for every group, or choose another objective.",
        )
    return Objective(name=name, robust=spec.objective.robust)
