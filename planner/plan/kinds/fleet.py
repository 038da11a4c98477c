"""Details of a fleet plan: the facts on each model that backends and readers need."""

from __future__ import annotations

from planner.ir.fleet import FleetModel, FleetProblem
from planner.ir.problem import Problem


def details(problem: Problem[FleetProblem]) -> dict[str, object]:
    """Return the facts that stand under `details`."""
    return {"facts": {model.name: _facts(model) for model in problem.payload.models}}


def _facts(model: FleetModel) -> dict[str, object]:
    found: dict[str, object] = {
        "priority": model.priority,
        "min_share": model.min_share,
        "traffic": {traffic.name: traffic.rate_rps for traffic in model.traffic},
    }
    if model.serving is not None:
        graph = model.serving.model
        found |= {
            "base_model": graph.name,
            "model_num_params": graph.num_params,
            "checkpoint_weight_fmt": graph.checkpoint_weight_fmt,
        }
        if model.serving.adapters is not None:
            found["resident_adapters"] = model.serving.adapters.num_resident
            found["adapter_rank"] = model.serving.adapters.rank
    return found
