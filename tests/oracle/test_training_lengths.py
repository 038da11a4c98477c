"""Plans for batches of different lengths against every plan of the space, each packed."""

from __future__ import annotations

from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.specs import load_spec, read_problem
from planner.ir.packing import PackingProblem
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.search.kinds.training import search
from planner.search.packing import PackingOptions, pack
from planner.search.training_question import limits_of
from planner.space.training.grid import divisors, plan_columns
from planner.space.training.length_costs import UNIT, LengthPricer
from planner.space.training.plans import RECOMPUTES
from planner.space.training.software import load_training_software

LENGTHS = Path(__file__).parents[1] / "data" / "lengths" / "drawn.csv"
SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}


def case(**changes: Any) -> Problem[TrainingProblem]:
    spec: dict[str, Any] = {
        "kind": "training",
        "model": SMALL,
        "cluster": "4xl40s",
        "workload": {"global_batch": 16, "lengths": str(LENGTHS), "num_batches": 2},
        "objective": "min_step_time",
        **changes,
    }
    return read_problem(load_spec(spec), Diagnostics())


@pytest.mark.parametrize("reserve", ["0GB", "40GB", "43GB"])
def test_no_plan_of_the_space_is_faster(reserve: str) -> None:
    problem = case(memory_reserve=reserve)
    result = search(problem, Diagnostics())
    group = problem.cluster.groups[0]
    capacity = limits_of(problem, group).capacity_bytes
    pricer = LengthPricer(problem, group, "bf16")
    software = load_training_software(problem.payload.choices.software)
    batches = problem.payload.workload.batches
    best = inf
    for tp, way, zero in product((1, 2, 4), range(3), range(3)):
        ranks = 4 // tp
        for shard in [ranks] if zero == 0 else [d for d in divisors(ranks) if d > 1]:
            plan = plan_columns(
                1,
                tp=tp,
                dp=ranks,
                pp=1,
                cp=1,
                micro_batch=1,
                schedule=1,
                zero=zero,
                dp_shard=shard,
                sequence_parallel=int(tp > 1),
                recompute=way,
            )
            room = pricer.rank_tokens(plan, capacity)
            largest = min(8 // tp, ranks)
            if room * largest < problem.payload.workload.seq_len:
                continue
            rank = pricer.price(plan, room)
            times = [
                pack(
                    PackingProblem(
                        lengths=batch,
                        num_ranks=ranks,
                        largest_degree=largest,
                        chunked=False,
                        costs=rank.costs,
                    ),
                    PackingOptions(),
                ).time_s
                for batch in batches
            ]
            step = float(np.mean(times)) + rank.reduction_s + rank.optimizer_s + software.per_step_s
            best = min(best, step)
    assert result.objective.value is not None
    assert result.objective.bound is not None
    assert result.objective.value <= best * (1 + 1e-9)
    assert result.objective.bound <= best * (1 + 1e-9)
    assert result.objective.value == pytest.approx(best, rel=0.01)


def test_what_is_said_to_fit_a_rank_fits_and_little_more_does() -> None:
    problem = case()
    group = problem.cluster.groups[0]
    pricer = LengthPricer(problem, group, "bf16")
    plan = plan_columns(1, tp=1, dp=4, pp=1, cp=1, micro_batch=1, schedule=1, zero=1, dp_shard=4)
    room = pricer.rank_tokens(plan, 40e9)
    assert float(pricer.price(plan, room).memory.peak_bytes[0]) <= 40e9
    more = room + max(UNIT, room // 20 // UNIT * UNIT)
    assert float(pricer.price(plan, more).memory.peak_bytes[0]) > 40e9


def test_a_sequence_alone_costs_what_the_layers_cost() -> None:
    problem = case()
    pricer = LengthPricer(problem, problem.cluster.groups[0], "bf16")
    plan = plan_columns(
        1, tp=1, dp=4, pp=1, cp=1, micro_batch=1, schedule=1, recompute=RECOMPUTES.index("full")
    )
    costs = pricer.price(plan, 16384).costs
    assert costs.work_s(8192) > 16 * costs.work_s(512)
    assert costs.work_s(512) > 0.0
    kept = pricer.price(plan_columns(1, tp=1, dp=4, pp=1, cp=1, micro_batch=1, schedule=1), 16384).costs
    assert kept.work_s(8192) < costs.work_s(8192)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fix": {"pp": 2}}, "cannot be pinned where sequences differ"),
        ({"objective": "min_energy"}, "planned for the shortest step"),
        ({"workload": {"global_batch": 8}}, "not stated"),
        ({"workload": {"global_batch": 100, "lengths": str(LENGTHS)}}, "too few sequences"),
        ({"workload": {"global_batch": 8, "lengths": "nowhere.csv"}}, "cannot read"),
    ],
)
def test_what_cannot_be_packed_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        case(**changes)


def test_long_sequences_are_cut_where_a_length_is_stated() -> None:
    workload = {"global_batch": 16, "lengths": str(LENGTHS), "seq_len": 1024, "num_batches": 1}
    problem = case(workload=workload)
    assert problem.payload.workload.seq_len == 1024
    assert max(problem.payload.workload.batches[0]) == 1024
    assert problem.payload.workload.tokens_per_step == sum(problem.payload.workload.batches[0])
