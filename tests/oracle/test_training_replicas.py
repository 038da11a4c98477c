"""Jobs replicated over groups against brute force: every set of groups, every split, every shape."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from math import inf, log2
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.specs import load_spec, read_problem
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.training_question import limits_of
from planner.search.training_replicas import loops_of, search_replicas
from planner.space.training.between import exchange_s
from planner.space.training.grid import Space, plan_columns, points, rows, sharded
from planner.space.training.plans import FITTED, RECOMPUTES, PlanArrays, concatenate
from planner.space.training.share_bound import share_floor
from planner.space.training.source import evaluator_of

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SITES = {
    "groups": [
        {"name": "east", "device": "h100", "nodes": 1, "devices_per_node": 2},
        {"name": "west", "device": "h100", "nodes": 1, "devices_per_node": 2},
    ],
    "group_links": [
        {"groups": ["west", "east"], "bandwidth": "2 GB/s", "latency": "10 ms", "capacity": "3 GB/s"}
    ],
}
CASES: dict[str, dict[str, Any]] = {
    "two kinds": {"cluster": "2xh100+2xa100"},
    "two kinds, short of memory": {"cluster": "2xl40s+2xa100-40gb", "memory_reserve": "20GB"},
    "three groups": {"cluster": "2xh100+1xa100+1xl40s"},
    "two sites": {"cluster": SITES},
    "pinned": {"cluster": "2xh100+4xa100", "fix": {"tp": 2, "micro_batch": 1}},
    "sixteen bit": {"cluster": "2xh100+2xa100", "gradients": ["full", "bf16"]},
}
BATCH = 9


def case(name: str, **more: Any) -> Problem[TrainingProblem]:
    spec = {
        "kind": "training",
        "model": SMALL,
        "workload": {"global_batch": BATCH, "seq_len": 4096},
        "objective": "min_step_time",
        **CASES[name],
        **more,
    }
    return read_problem(load_spec(spec), Diagnostics())


def every_plan(space: Space) -> PlanArrays | None:
    grid = list(points(space))
    if not grid:
        return None
    plans = sharded(space, rows(space, concatenate(grid)))
    undecided = plans.recompute_layers == FITTED
    found = [plans.take(~undecided)]
    for layers in range(len(space.model.layers) + 1):
        for way in ("none", "full") if layers == 0 else ("full",):
            part = plans.take(undecided)
            index = np.full_like(part.recompute, RECOMPUTES.index(way))
            found.append(replace(part, recompute=index, recompute_layers=np.full_like(index, layers)))
    return concatenate(found)


def shapes(
    problem: Problem[TrainingProblem], group: NodeGroup, sequences: int, more_bytes: float
) -> list[tuple[float, int]]:
    """Every (step, devices) of one group that fits, for so many sequences."""
    payload = replace(problem.payload, workload=replace(problem.payload.workload, global_batch=sequences))
    space = Space(
        model=payload.model,
        workload=payload.workload,
        choices=payload.choices,
        num_devices=group.num_devices,
    )
    plans = every_plan(space)
    if plans is None:
        return []
    evaluator = evaluator_of(payload, group, plans, more_state_bytes=more_bytes)
    found = evaluator.evaluate(plans, "bf16")
    fits = found.peak_bytes <= limits_of(problem, group).capacity_bytes
    devices = plans.tp * plans.pp * plans.dp * plans.cp
    best: dict[int, float] = {}
    for step, count in zip(found.time.total_s[fits].tolist(), devices[fits].tolist(), strict=True):
        best[count] = min(best.get(count, inf), step)
    return [(step, count) for count, step in best.items()]


def splits(batch: int, num: int) -> list[tuple[int, ...]]:
    return [s for s in product(range(1, batch), repeat=num) if sum(s) == batch]


def best_in_step(problem: Problem[TrainingProblem], gradients: str, bytes_each: float) -> float:
    choices = replace(problem.payload.choices, gradients=(gradients,))  # pyright: ignore[reportArgumentType]
    alone = replace(problem, payload=replace(problem.payload, choices=choices))
    groups = problem.cluster.groups
    table = {(g.name, b): shapes(alone, g, b, 0.0) for g in groups for b in range(1, BATCH)}
    evaluators = {g.name: evaluator_of(problem.payload, g, plan_columns(1, micro_batch=1)) for g in groups}
    straggler = evaluators[groups[0].name].software.straggler
    best = inf
    for size in range(2, len(groups) + 1):
        for chosen in combinations(groups, size):
            nodes = [g.num_nodes for g in chosen]
            factor = 1.0 + straggler * log2(sum(nodes) / max(nodes))
            for split in splits(BATCH, size):
                options = [table[g.name, b] for g, b in zip(chosen, split, strict=True)]
                for picked in product(*options):
                    sites = [
                        (evaluators[g.name], devices) for g, (_, devices) in zip(chosen, picked, strict=True)
                    ]
                    sent = exchange_s(problem.cluster, sites, problem.payload.model.num_params * bytes_each)
                    best = min(best, factor * max(step for step, _ in picked) + sent)
    return best


@pytest.mark.parametrize("name", sorted(CASES))
def test_replicas_are_those_of_brute_force(name: str) -> None:
    problem = case(name)
    found = search_replicas(problem, Diagnostics(), inf, lambda: False, [])
    expected = min(
        best_in_step(problem, gradients, 4.0 if gradients == "full" else 2.0)
        for gradients in problem.payload.choices.gradients
    )
    assert found.found[0].step_s == pytest.approx(expected, rel=1e-9)
    assert found.bound <= expected * (1 + 1e-12)
    assert found.bound == pytest.approx(expected, rel=1e-4)
    parts = found.found[0].parts
    assert sum(part.sequences for part in parts) == BATCH


@pytest.mark.parametrize("name", ["two kinds", "pinned", "three groups"])
def test_the_floor_is_below_every_shape(name: str) -> None:
    problem = case(name)
    for group in problem.cluster.groups:
        payload = problem.payload
        space = Space(
            model=payload.model,
            workload=payload.workload,
            choices=payload.choices,
            num_devices=group.num_devices,
        )
        sizes = np.arange(1, BATCH + 1)
        evaluator = evaluator_of(payload, group, plan_columns(BATCH, micro_batch=sizes))
        floor = share_floor(evaluator, space, "bf16")
        assert np.isinf(floor[0])
        for b in range(1, BATCH + 1):
            steps = [step for step, _ in shapes(problem, group, b, 0.0)]
            if steps:
                assert floor[b] <= min(steps) * (1 + 1e-12)
                assert floor[b] > 0.5 * min(steps)


def test_an_outer_loop_takes_the_slowest_site_and_what_of_exchanges_does_not_hide() -> None:
    loop = {"steps": [4, 16], "bits": [32, 8], "fragments": [1, 2], "overlap_steps": [0, 2]}
    problem = case("two sites", outer_loop=loop)
    loops = loops_of(problem)
    assert len(loops) == 16
    found = search_replicas(problem, Diagnostics(), inf, lambda: False, loops).found[0]
    groups = problem.cluster.groups
    slowest = min(
        max(min(step for step, _ in shapes(problem, g, b, 8.0)) for g, b in zip(groups, split, strict=True))
        for split in splits(BATCH, 2)
    )
    assert max(part.step_s for part in found.parts) == pytest.approx(slowest, rel=1e-9)
    params = problem.payload.model.num_params
    sites = [(part.evaluator, part.num_devices) for part in found.parts]
    least = inf
    for steps, bits, parts, overlap in product((4, 16), (32, 8), (1, 2), (0, 2)):
        sent = exchange_s(problem.cluster, sites, params * bits / 8 / parts)
        least = min(least, slowest + parts * max(0.0, sent - overlap * slowest) / steps)
    assert least <= found.step_s
    update = 36.0 * params / 1e12 / min(steps for steps in (4, 16))
    assert found.step_s <= least * (1 + 5e-5) + update


def test_an_outer_loop_holds_its_states() -> None:
    problem = case("two sites", outer_loop={"steps": [100]})
    found = search_replicas(problem, Diagnostics(), inf, lambda: False, loops_of(problem)).found[0]
    for part in found.parts:
        assert part.evaluator.software.optimizer_bytes == 12.0 + 8.0
