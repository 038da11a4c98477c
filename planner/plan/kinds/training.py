"""Details of a training plan: the facts on the model and the run that backends and readers need."""

from __future__ import annotations

from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem


def details(problem: Problem[TrainingProblem]) -> dict[str, object]:
    """Return the facts that stand under `details`."""
    model, workload = problem.payload.model, problem.payload.workload
    return {
        "model_family": model.family,
        "assumed_family": model.assumed_family,
        "model_num_params": model.num_params,
        "num_layers": model.num_layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "num_experts": model.num_experts,
        "global_batch": workload.global_batch,
        "seq_len": workload.seq_len,
        "tokens_per_step": workload.tokens_per_step,
        "run_tokens": workload.num_tokens,
    }
