"""Pipelines over several groups against brute force: every order, every cut, every number of stages."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations, product
from math import inf, log2
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.specs import load_spec, read_problem
from planner.ir.problem import Problem
from planner.ir.training import Recompute, TrainingProblem
from planner.search.training_chain import ChainSearch
from planner.search.training_mixed import MixedSearch
from planner.search.training_question import limits_of
from planner.search.training_table import ChainQuestion
from planner.space.training.chain_pricing import BandPricer
from planner.space.training.chain_stages import ChainGroup, StageBand
from planner.space.training.grid import Space
from planner.space.training.mixed import MixedPoints, mixed_points
from planner.space.training.mixed_bound import mixed_bound, with_memory
from planner.space.training.partition import chunk_sizes
from planner.space.training.plans import RECOMPUTES, single
from planner.space.training.source import evaluator_of

SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 6,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EXPERTS = {
    **SMALL,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_hidden_layers": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
SITES = {
    "groups": [
        {"name": "east", "device": "h100", "nodes": 1, "devices_per_node": 2},
        {"name": "west", "device": "h100", "nodes": 1, "devices_per_node": 3},
    ],
    "group_links": [
        {"groups": ["west", "east"], "bandwidth": "2 GB/s", "latency": "10 ms", "capacity": "3 GB/s"}
    ],
}
CASES: dict[str, dict[str, Any]] = {
    "two kinds": {"model": SMALL, "cluster": "2xh100+2xa100"},
    "two kinds short of memory": {"model": SMALL, "cluster": "2xl40s+1xa100-40gb", "memory_reserve": "4GB"},
    "three groups": {"model": SMALL, "cluster": "1xh100+1xa100+1xl40s"},
    "three groups, one too small for most": {"model": SMALL, "cluster": "2xh100+2xa100+1xl40s"},
    "two sites": {"model": SMALL, "cluster": SITES},
    "experts": {"model": EXPERTS, "cluster": "2xh100+2xa100"},
    "pinned": {"model": SMALL, "cluster": "2xh100+2xa100", "fix": {"pp": 3, "recompute": "full"}},
}


def case(name: str) -> Problem[TrainingProblem]:
    spec = {
        "kind": "training",
        "workload": {"global_batch": 8, "seq_len": 4096},
        "objective": "min_step_time",
        **CASES[name],
    }
    return read_problem(load_spec(spec), Diagnostics())


def prepared(problem: Problem[TrainingProblem]) -> tuple[MixedPoints, tuple[ChainGroup, ...], MixedSearch]:
    payload = problem.payload
    spaces = tuple(
        Space(
            model=payload.model, workload=payload.workload, choices=payload.choices, num_devices=g.num_devices
        )
        for g in problem.cluster.groups
    )
    points = mixed_points(spaces, tuple(g.device.name for g in problem.cluster.groups))
    assert points is not None
    groups = tuple(
        ChainGroup(
            evaluator=evaluator_of(payload, g, plans), capacity_bytes=limits_of(problem, g).capacity_bytes
        )
        for g, plans in zip(problem.cluster.groups, points.plans, strict=True)
    )
    pinned = dict(payload.choices.fixed)
    ways: tuple[Recompute, ...] = tuple(
        r for r in RECOMPUTES if r in spaces[0].word("recompute", payload.choices.recomputes)
    )
    search = MixedSearch(problem.cluster, groups, "bf16", ways, int(pinned.get("pp", 0)), lambda: False)
    return points, groups, search


def pipelines(question: ChainQuestion, num_layers: int) -> Iterator[list[tuple[int, int, int]]]:
    """Every pipeline as (group, first layer, number of layers), first stage first."""
    numbers = range(len(question.segments))
    for size in range(question.least_groups, len(question.segments) + 1):
        for order in permutations(numbers, size):
            ranges = [range(1, question.segments[i].most_stages + 1) for i in order]
            for counts in product(*ranges):
                stages = [i for i, count in zip(order, counts, strict=True) for _ in range(count)]
                if question.num_stages and len(stages) != question.num_stages:
                    continue
                for cuts in combinations(range(1, num_layers), len(stages) - 1):
                    edges = (0, *cuts, num_layers)
                    yield [(i, edges[n], edges[n + 1] - edges[n]) for n, i in enumerate(stages)]


def step_of(question: ChainQuestion, stages: list[tuple[int, int, int]]) -> float:
    """The step of one pipeline, worked out stage by stage."""
    m, visible = question.num_micro, 2.0 * (1.0 - question.hidden)
    waits: list[float] = []
    crossings: list[float] = []
    pace = ramp = once = nodes = 0.0
    for n, (i, first, count) in enumerate(stages):
        segment, following = question.segments[i], stages[n + 1][0] if n + 1 < len(stages) else None
        time = float(segment.band.time_s(float(min(len(stages) - n, m)))[first, count - 1])
        hop = float(question.hop_s[i, following]) if following is not None else 0.0
        waits.append(time + (visible * hop if following == i else 0.0))
        crossings.append(2.0 * hop if following != i else 0.0)
        ramp += time + 2.0 * hop
        pace = max(pace, waits[-1], hop)
        band = segment.band
        once = max(once, float(band.once_s[first, count - 1] + band.optimizer_s[first, count - 1]))
        nodes += segment.devices_per_stage / segment.devices_per_node
    for a in range(len(stages)):
        if len(stages) - a >= m:
            continue
        for b in range(a + 1, len(stages) + 1):
            pace = max(pace, (sum(waits[a:b]) + sum(crossings[a : b - 1])) / (b - a))
    if not np.isfinite(ramp):
        return inf
    late = 1.0 + question.straggler * log2(max(nodes, 1.0))
    return late * ((m - 1) * pace + ramp + once) + question.per_step_s


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_point_is_cut_as_brute_force_cuts_it_and_the_best_is_found(name: str) -> None:
    problem = case(name)
    points, groups, search = prepared(problem)
    num_layers = len(problem.payload.model.layers)
    evaluators = tuple(group.evaluator for group in groups)
    ways = search._ways  # pyright: ignore[reportPrivateUsage]
    bound = mixed_bound(evaluators, points, "bf16", ways)
    tight = with_memory(groups, points, bound, ("bf16", ways), 1e9)
    best = inf
    rng = np.random.default_rng(1)
    sample = set(rng.choice(len(points), size=min(len(points), 60), replace=False).tolist())
    for index in range(len(points)):
        question = search._question(points, index, 1e-9, inf)  # pyright: ignore[reportPrivateUsage]
        found = ChainSearch(question).best(inf)
        best = min(best, found.step_s if found is not None else inf)
        if index not in sample:
            continue
        expected = min((step_of(question, stages) for stages in pipelines(question, num_layers)), default=inf)
        assert (found.step_s if found is not None else inf) == pytest.approx(expected, rel=2e-9)
        assert bound.step_s[index] <= expected * (1 + 1e-9)
        assert tight[index] <= expected * (1 + 1e-9)
    outcome = search.run(points, inf)
    reached = outcome.found[0].step_s if outcome.found else inf
    assert reached == pytest.approx(best, rel=2e-9)
    assert outcome.bound <= reached
    assert search.run(points, best * (1 - 1e-8)).found == []


def test_stages_cost_and_hold_what_the_evaluator_says_of_whole_plans() -> None:
    problem = case("two kinds")
    points, groups, _ = prepared(problem)
    for recompute in RECOMPUTES:
        strategy = points.plans[0].take(np.array([0])).strategy(0)
        plan = single(
            type(strategy)(
                **{
                    **{name: getattr(strategy, name) for name in strategy.__slots__},
                    "recompute": recompute,
                    "pp": 2,
                    "schedule": "1f1b",
                }
            )
        )
        evaluator = groups[0].evaluator
        whole = evaluator.evaluate(plan)
        times = evaluator.stage_times(plan).total[:, 0]
        band: StageBand = BandPricer(groups[0], "bf16", (recompute,)).band(plan, 6)
        sizes = chunk_sizes(6, 2, 0, 0)
        assert sizes is not None
        first = 0
        num_micro = 8 / (strategy.dp * strategy.micro_batch)
        for stage, count in enumerate(sizes):
            held = min(2.0 - stage, num_micro)
            choice = band.choice(first, count, held)
            assert choice.compute_s + choice.comm_s == pytest.approx(times[stage], rel=1e-9)
            assert whole.memory[0] is not None
            assert float(choice.memory.total[0]) == pytest.approx(
                float(whole.memory[0].total[stage]), rel=1e-9
            )
            first += count


def test_recomputing_fewer_layers_is_chosen_where_not_all_need_it() -> None:
    problem = case("two kinds short of memory")
    points, groups, _ = prepared(problem)
    partly = 0
    for index in range(len(points)):
        plan = points.plans[0].take(np.array([index]))
        band = BandPricer(groups[0], "bf16", RECOMPUTES).band(plan, 6)
        for held, count in product((1.0, 2.0, 4.0), (2, 3, 4)):
            if not np.isfinite(band.time_s(held)[1, count - 1]):
                continue
            choice = band.choice(1, count, held)
            assert float(choice.memory.total[0]) <= groups[0].capacity_bytes * (1 + 1e-6)
            partly += choice.recompute == "full" and choice.recompute_layers < count
    assert partly
