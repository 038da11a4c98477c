"""A bound that needs no pricing: no plan computes faster than the peaks of its devices.

It is what an interrupted search can still promise; a finished enumeration gives the optimum itself.
"""

from __future__ import annotations

import numpy as np

from cost_models.formats import number_format
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import op_params
from planner.search.serving_catalogue import Catalogue
from planner.search.serving_question import Question
from planner.space.engine import executed_on


def bound_without_search(catalogue: Catalogue, question: Question) -> float | None:
    """Return a bound of the objective from arithmetic alone, None where it says nothing.

    A request needs 2 FLOP per active parameter outside the tables and token; a device gives at most its
    highest peak among the executed formats. Attention and all memory traffic are left out, so the bound
    is loose but valid.
    """
    rates = np.array([_rate_per_device(catalogue, group) for group in catalogue.groups])
    counts = np.array(question.resources.num_devices, dtype=np.float64)
    tokens = catalogue.requests.mean_output_tokens
    if question.goal == "max_throughput":
        limit = question.budget.num_devices
        devices = counts.sum() if limit is None else min(limit, counts.sum())
        return float(min(counts @ rates, devices * rates.max()) * tokens)
    if question.rate_rps is None:
        return None
    usd = np.array([price or 0.0 for price in question.resources.usd_per_device_hour])
    per_device = {
        "min_devices": np.ones_like(usd),
        "min_cost": usd,
        "min_power": np.array(question.resources.power_w_per_device),
        "min_cost_per_token": usd / (question.rate_rps * tokens * 3600.0) * 1e6,
    }.get(question.goal)
    if per_device is None:
        return None
    least = float((per_device / rates).min() * question.rate_rps)
    return float(np.ceil(least - 1e-9)) if question.goal == "min_devices" else least


def _rate_per_device(catalogue: Catalogue, group: NodeGroup) -> float:
    """Return requests per second of one device of a group at its peak."""
    payload = catalogue.problem.payload
    model = payload.model
    tables = sum(op_params(op) for op in (*model.embedding, *model.head))
    active = max(1.0, float(model.num_active_text_params - tables))
    work = 2.0 * active * (catalogue.requests.mean_new_tokens + catalogue.requests.mean_steps)
    peaks = {key: fact.value for key, fact in group.device.peak_flops_per_s.items()}
    stored = [*payload.choices.weight_fmts, model.checkpoint_dtype]
    executed = [executed_on(group, fmt) for fmt in stored]
    usable = [peaks[key] for fmt in executed if fmt for key in number_format(fmt).peaks if key in peaks]
    return max(usable, default=1.0) / work
