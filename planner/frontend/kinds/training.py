"""``kind: training``: one model trained on one cluster with a fixed global batch."""

from __future__ import annotations

from hashlib import sha256
from typing import cast

from hardware_profiles.errors import ProfileError
from hardware_profiles.loader import load_trainer
from planner.diagnostics import Diagnostics
from planner.errors import InputError, UnknownNameError
from planner.frontend.length_files import read_lengths
from planner.frontend.spec_inputs import cluster_input, model_input
from planner.frontend.spec_tree import SpecTree
from planner.frontend.specs import validated
from planner.frontend.training_spec import GOALS, TrainingSpec
from planner.ir.cluster import Cluster
from planner.ir.model_graph import ModelGraph
from planner.ir.objective import Objective
from planner.ir.problem import InputDigest, Problem
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
PACKED_FIX = ("tp", "zero", "dp_shard", "recompute", "offload", "precision", "sequence_parallel")
"""What may be pinned where sequences differ in length."""
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
    seq_len, batches = _sequences(tree, spec, diagnostics)
    found = TrainingWorkload(
        global_batch=section.global_batch,
        seq_len=seq_len,
        batches=batches,
        num_tokens=section.tokens,
        deadline_s=section.deadline,
    )
    if found.num_tokens is not None and found.num_tokens < found.tokens_per_step:
        diagnostics.warn(
            "training-short-run",
            f"one step trains {found.tokens_per_step:.4g} tokens, more than the run's {found.num_tokens:.4g}",
        )
    return found


def _sequences(
    tree: SpecTree, spec: TrainingSpec, diagnostics: Diagnostics
) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return the tokens of a sequence, or of the longest one with batches drawn from a file of lengths."""
    section, path = spec.workload, ("workload", "lengths")
    if section.lengths is None:
        if section.seq_len is None:
            raise tree.error(
                "the tokens of a sequence are not stated",
                ("workload",),
                hint="State seq_len (--seq), or lengths for sequences that differ.",
            )
        return section.seq_len, ()
    file = tree.path_of(section.lengths, path)
    try:
        source = read_lengths(file)
        drawn = source.batches(section.global_batch, section.num_batches, spec.search.seed)
    except InputError as error:
        raise tree.located(error, path) from None
    tree.digests.append(
        InputDigest(role="lengths", name=file.name, sha256=sha256(repr(drawn).encode()).hexdigest())
    )
    _check_packed(tree, spec)
    most = section.seq_len or max(map(max, drawn))
    cut = sum(length > most for batch in drawn for length in batch)
    if cut:
        diagnostics.warn("training-cut-sequences", f"{cut} sequences are longer than {most} tokens and cut")
    batches = tuple(tuple(sorted((min(n, most) for n in batch), reverse=True)) for batch in drawn)
    return max(map(max, batches)), batches


def _check_packed(tree: SpecTree, spec: TrainingSpec) -> None:
    """Refuse by name what plans for sequences that differ cannot keep."""
    for name in spec.fix:
        if name.lower() not in PACKED_FIX:
            raise tree.error(
                "cannot be pinned where sequences differ",
                ("fix", name),
                allowed=", ".join(PACKED_FIX),
                hint="Groups of ranks, micro-batches and their sizes follow from the lengths.",
            )
    if spec.objective.name not in (None, "min_step_time"):
        raise tree.error(
            "sequences that differ are planned for the shortest step",
            ("objective",),
            value=spec.objective.name,
            allowed="min_step_time",
        )
    if not set(spec.offload) & {"none", "optimizer", "optimizer_and_parameters"}:
        raise tree.error(
            "activations stay on the device where sequences differ",
            ("offload",),
            value=", ".join(spec.offload),
            allowed="none, optimizer, optimizer_and_parameters",
        )
    if not spec.flash_attention:
        raise tree.error("packed sequences need flash attention", ("flash_attention",), value=False)


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
    if "schedule" not in fixed and spec.workload.lengths is None:
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
