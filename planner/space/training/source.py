"""What prices the training plans of a problem on one node group: shipped profiles and cost models."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import numpy as np

from cost_models.formats import number_format
from planner.ir.cluster import NodeGroup
from planner.ir.training import TrainingProblem
from planner.space.engine import executed_on
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import PlanArrays
from planner.space.training.software import load_training_software, training_cost_model


def evaluator_of(
    payload: TrainingProblem, group: NodeGroup, plans: PlanArrays, *, more_state_bytes: float = 0.0
) -> TrainingEvaluator:
    """Return the evaluator of `plans`, whose micro-batch sizes it is built for.

    `more_state_bytes` per parameter are held beside the optimizer's states, shared out as they are.

    Raises
    ------
    ProfileError
        If there is no such training software.
    """
    software = load_training_software(payload.choices.software)
    if not payload.flash_attention:
        software = replace(software, flash_attention=False)
    if more_state_bytes:
        software = replace(software, optimizer_bytes=software.optimizer_bytes + more_state_bytes)
    costs = training_cost_model(group, software)
    sizes = np.unique(plans.micro_batch)
    return TrainingEvaluator(payload.model, group, costs, software, payload.workload, sizes)


def with_batch(evaluator: TrainingEvaluator, global_batch: int) -> TrainingEvaluator:
    """Return an evaluator of steps of another number of sequences, with the same priced layers."""
    found = copy(evaluator)
    found.workload = replace(evaluator.workload, global_batch=global_batch)
    return found


def formats_of(payload: TrainingProblem, group: NodeGroup) -> tuple[str, ...]:
    """Return the allowed precisions that the group's devices compute in as they are."""
    pinned = dict(payload.choices.fixed).get("precision")
    wanted = (str(pinned),) if pinned is not None else payload.choices.precisions
    return tuple(
        fmt for fmt in wanted if executed_on(group, number_format(fmt).name) == number_format(fmt).name
    )
