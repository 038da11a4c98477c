"""Details of a serving plan: the facts on the model that backends and readers need."""

from __future__ import annotations

from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem


def details(problem: Problem[ServingProblem]) -> dict[str, object]:
    """Return the facts that stand under `details`."""
    model, workload = problem.payload.model, problem.payload.workload
    return {
        "model_family": model.family,
        "assumed_family": model.assumed_family,
        "model_num_params": model.num_params,
        "checkpoint_weight_fmt": model.checkpoint_weight_fmt,
        "checkpoint_kv_fmt": model.checkpoint_kv_fmt,
        "num_experts": model.num_experts,
        "max_request_tokens": workload.lengths.max_total,
        "mean_input_tokens": workload.lengths.mean_input,
        "mean_output_tokens": workload.lengths.mean_output,
        "lengths": workload.lengths.source,
    }
