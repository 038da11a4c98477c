"""The training search against full enumeration: the same value, and bounds that are bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.specs import load_spec, read_problem
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.kinds.training import search
from planner.search.training_question import limits_of, rates_of
from planner.space.training.bound import point_bound
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.grid import Space, points, rows, sharded
from planner.space.training.plans import FITTED, RECOMPUTES, PlanArrays, concatenate, leanest_offload
from planner.space.training.source import evaluator_of, formats_of

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
LARGE = {**SMALL, "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64}
EXPERTS = {
    **SMALL,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
CASES: dict[str, dict[str, Any]] = {
    "one node": {"model": SMALL, "cluster": "8xh100"},
    "one node that is short of memory": {"model": LARGE, "cluster": "8xl40s"},
    "two nodes": {"model": SMALL, "cluster": "2x4xa100@ib200"},
    "cheapest": {"model": SMALL, "cluster": "8xh100", "objective": "min_cost"},
    "least energy": {"model": SMALL, "cluster": "8xh100", "objective": "min_energy"},
    "experts": {"model": EXPERTS, "cluster": "8xh100"},
    "some layers recomputed": {
        "model": SMALL,
        "cluster": "4xl40s",
        "recompute": ["none", "full"],
        "memory_reserve": "33GB",
        "fix": {"zero": 1, "tp": 1, "cp": 1, "micro_batch": 4},
    },
    "some layers recomputed on two stages": {
        "model": LARGE,
        "cluster": "8xa100",
        "recompute": ["none", "full"],
        "memory_reserve": "50GB",
        "fix": {"pp": 2, "zero": 1, "tp": 2, "cp": 1, "micro_batch": 4, "num_chunks": 1},
    },
    "offload": {
        "model": LARGE,
        "cluster": "4xl40s",
        "offload": ["none", "optimizer", "optimizer_and_parameters"],
    },
    "activations on the host": {
        "model": LARGE,
        "cluster": {"device": "l40s", "nodes": 1, "devices_per_node": 4, "host_memory_bandwidth": "300GB/s"},
        "offload": ["none", "optimizer", "activations", "optimizer_and_activations"],
        "fix": {"tp": 1, "cp": 1},
    },
    "two kinds of devices": {"model": SMALL, "cluster": "4xh100+8xl40s"},
    "two precisions": {"model": SMALL, "cluster": "4xh100", "precision": ["bf16", "fp8"]},
    "every schedule": {
        "model": LARGE,
        "cluster": "8xh100",
        "schedule": ["gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v"],
        "fix": {"dp": 1},
    },
    "formats of gradients": {
        "model": SMALL,
        "cluster": "2x4xa100@eth100",
        "gradients": ["full", "bf16", "int4", "1bit"],
        "fix": {"pp": 1},
    },
    "formats of gradients, short of memory": {
        "model": LARGE,
        "cluster": "8xl40s",
        "gradients": ["full", "bf16"],
    },
    "deadline": {
        "model": SMALL,
        "cluster": "8xh100",
        "objective": "min_cost",
        "workload": {"global_batch": 16, "seq_len": 4096, "tokens": "1T", "deadline": "80d"},
    },
}


def case(name: str) -> Problem[TrainingProblem]:
    spec = {
        "kind": "training",
        "workload": {"global_batch": 16, "seq_len": 4096},
        "objective": "min_step_time",
        **CASES[name],
    }
    return read_problem(load_spec(spec), Diagnostics())


def enumerated(
    problem: Problem[TrainingProblem], index: int
) -> tuple[PlanArrays, PlanArrays, TrainingEvaluator]:
    """All points and all plans of one node group, and what prices them."""
    group = problem.cluster.groups[index]
    payload = problem.payload
    space = Space(
        model=payload.model, workload=payload.workload, choices=payload.choices, num_devices=group.num_devices
    )
    coarse = concatenate(list(points(space)))
    plans = sharded(space, rows(space, coarse))
    return coarse, every_recompute(plans, len(payload.model.layers)), evaluator_of(payload, group, coarse)


def every_recompute(plans: PlanArrays, num_layers: int) -> PlanArrays:
    """Every number of recomputed layers in place of the one that the search would fit."""
    undecided = plans.recompute_layers == FITTED
    found = [plans.take(~undecided)]
    part = plans.take(undecided)
    for layers in range(num_layers + 1):
        for way in ("none", "full") if layers == 0 else ("full",):
            index = np.full_like(part.recompute, RECOMPUTES.index(way))
            found.append(replace(part, recompute=index, recompute_layers=np.full_like(index, layers)))
    return concatenate(found)


def best_by_enumeration(problem: Problem[TrainingProblem]) -> float:
    best = np.inf
    for index, group in enumerate(problem.cluster.groups):
        _, plans, evaluator = enumerated(problem, index)
        limits, rates = limits_of(problem, group), rates_of(problem, group)
        for fmt in formats_of(problem.payload, group):
            found = evaluator.evaluate(plans, fmt)
            devices = np.asarray(plans.tp * plans.pp * plans.dp * plans.cp, dtype=np.float64)
            value = rates.value(found.time.total_s, found.time.compute_s, devices)
            allowed = found.peak_bytes <= limits.capacity_bytes
            allowed &= found.time.total_s <= limits.longest_step_s
            best = min(best, float(np.where(allowed, value, np.inf).min()))
    return best


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_search_finds_what_enumeration_finds(name: str) -> None:
    problem = case(name)
    result = search(problem, Diagnostics())
    expected = best_by_enumeration(problem)
    assert result.status == ("optimal" if np.isfinite(expected) else "infeasible")
    if np.isfinite(expected):
        assert result.objective.value == pytest.approx(expected, rel=1e-12)
        assert result.objective.gap == 0.0


@pytest.mark.parametrize("name", ["one node", "experts", "every schedule"])
def test_bounds_are_bounds(name: str) -> None:
    problem = case(name)
    group, payload = problem.cluster.groups[0], problem.payload
    space = Space(
        model=payload.model, workload=payload.workload, choices=payload.choices, num_devices=group.num_devices
    )
    coarse, plans, evaluator = enumerated(problem, 0)
    found = evaluator.evaluate(plans)
    outline = evaluator.outline(plans)
    assert (outline.step_s <= found.time.total_s * (1 + 1e-12)).all()
    bound = point_bound(evaluator, space, plans, "bf16")
    possible = np.isfinite(found.time.total_s)
    assert (bound.step_s[possible] <= outline.step_s[possible] * (1 + 1e-9)).all()
    assert (bound.compute_s[possible] <= found.time.compute_s[possible] * (1 + 1e-9)).all()
    assert len(coarse) < len(plans)


@pytest.mark.parametrize("name", ["one node", "experts", "offload", "activations on the host"])
def test_the_leanest_sharding_bounds_the_memory_of_all(name: str) -> None:
    problem = case(name)
    _, plans, evaluator = enumerated(problem, 0)
    most = leanest_offload(problem.payload.choices.offloads)
    leanest = replace(
        plans,
        zero=np.full_like(plans.zero, 3),
        dp_shard=plans.dp,
        offload=np.full_like(plans.offload, most),
    )
    least = evaluator.outline(leanest).least_bytes
    assert (least <= evaluator.evaluate(plans).peak_bytes * (1 + 1e-12)).all()


def test_as_few_layers_are_recomputed_as_memory_allows() -> None:
    problem = case("some layers recomputed")
    settings = dict(search(problem, Diagnostics()).pools[0].settings)
    assert settings["recompute"] == "full"
    assert 0 < int(str(settings["recompute_layers"])) < 6
    pinned = tuple({**dict(problem.payload.choices.fixed), "recompute_layers": 5}.items())
    more = replace(
        problem, payload=replace(problem.payload, choices=replace(problem.payload.choices, fixed=pinned))
    )
    slower = search(more, Diagnostics()).objective.value
    assert slower is not None
    assert slower > (search(problem, Diagnostics()).objective.value or 0.0)
