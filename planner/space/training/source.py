"""What prices the training plans of a problem on one node group: shipped profiles and cost models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cost_models.formats import number_format
from planner.ir.cluster import NodeGroup
from planner.ir.training import TrainingProblem
from planner.space.engine import executed_on
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import PlanArrays
from planner.space.training.software import load_training_software, training_cost_model


def evaluator_of(payload: TrainingProblem, group: NodeGroup, plans: PlanArrays) -> TrainingEvaluator:
    """Return the evaluator of `plans`, whose micro-batch sizes it is built for.

    Raises
    ------
    ProfileError
        If there is no such training software.
    """
    software = load_training_software(payload.choices.software)
    if not payload.flash_attention:
        software = replace(software, flash_attention=False)
    costs = training_cost_model(group, software)
    sizes = np.unique(plans.micro_batch)
    return TrainingEvaluator(payload.model, group, costs, software, payload.workload, sizes)


def formats_of(payload: TrainingProblem, group: NodeGroup) -> tuple[str, ...]:
    """Return the allowed precisions that the group's devices compute in as they are."""
    pinned = dict(payload.choices.fixed).get("precision")
    wanted = (str(pinned),) if pinned is not None else payload.choices.precisions
    return tuple(
        fmt for fmt in wanted if executed_on(group, number_format(fmt).name) == number_format(fmt).name
    )
