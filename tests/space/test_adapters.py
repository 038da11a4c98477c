"""Low-rank adapters: what they hold by hand, what they add to a step, and what engines are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.backends import BACKENDS, ExportOptions
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.models import load_model
from planner.ir.serving import Adapters
from planner.ir.strategy import ServingStrategy
from planner.pipeline import Run, make_plan
from planner.plan.parts import model_parts
from planner.plan.schema import Plan
from planner.space.compose import ReplicaShape
from planner.space.replica import ReplicaBuilder
from planner.verify import problem_of, verify_plan
from tests.fleet_cases import CHAT, spec
from tests.serving_cases import H200, cluster, costs, group, problem

HIDDEN, KV, FFN, LAYERS = 4096, 1024, 14336, 32
"""Of Llama 3.1 8B."""


def builder(adapters: Adapters | None) -> ReplicaBuilder:
    where = group(H200, 2)
    case = problem(load_model("llama-3.1-8b", diagnostics=Diagnostics()), cluster(where))
    return ReplicaBuilder(
        problem=replace(case.payload, adapters=adapters), group=where, costs=costs(where, "vllm")
    )


def shape(tp: int = 1) -> ReplicaShape:
    return ReplicaShape(
        role="decode",
        group="g",
        engine="vllm",
        weight_fmt="bf16",
        kv_fmt="auto",
        strategy=ServingStrategy(tp=tp),
        token_budget=2048,
        max_num_seqs=256,
    )


@pytest.mark.parametrize("tp", [1, 4])
def test_resident_adapters_hold_both_factors_of_every_map(tp: int) -> None:
    # q, k, v, gate and up split their outputs, o and down their inputs; the other factor is whole.
    column = (HIDDEN + HIDDEN / tp) + 2 * (HIDDEN + KV / tp) + 2 * (HIDDEN + FFN / tp)
    row = (HIDDEN / tp + HIDDEN) + (FFN / tp + HIDDEN)
    (stage,) = builder(Adapters(num_resident=6, rank=16)).stage_bytes(shape(tp), (LAYERS,))
    assert dict(stage.parts)["adapters"] == pytest.approx(6 * 16 * 2.0 * LAYERS * (column + row))
    (without,) = builder(None).stage_bytes(shape(tp), (LAYERS,))
    assert "adapters" not in dict(without.parts)
    assert without.free_bytes - stage.free_bytes == pytest.approx(dict(stage.parts)["adapters"])


def step_s(adapters: Adapters | None, sequences: float) -> float:
    made = builder(adapters)
    replica = made.build_with(shape(), (LAYERS,))
    assert replica is not None
    tables = replica.tables
    at = int((tables.token_grid <= sequences).sum()) - 1
    return float(tables.token_time_s[0, at])


def test_a_step_takes_longer_with_adapters_and_longer_the_more_there_are_of_higher_rank() -> None:
    plain, one = step_s(None, 64), step_s(Adapters(num_resident=1, rank=16), 64)
    many, thick = (
        step_s(Adapters(num_resident=32, rank=16), 64),
        step_s(Adapters(num_resident=32, rank=64), 64),
    )
    assert plain < one < many < thick
    # 64 sequences meet nearly all of 32: their factors are read at memory bandwidth at best.
    held = 32 * (1 - (31 / 32) ** 64) - 1
    factors = 16 * 2.0 * LAYERS * (2 * HIDDEN + 2 * (HIDDEN + KV) + 3 * (HIDDEN + FFN))
    bandwidth = H200.memory_bandwidth_bytes_per_s.value
    assert many - one >= 0.95 * held * factors / bandwidth


def test_one_sequence_meets_one_adapter_however_many_stay() -> None:
    alone = step_s(Adapters(num_resident=1, rank=16), 1)
    assert step_s(Adapters(num_resident=64, rank=16), 1) == pytest.approx(alone, rel=1e-9)


@pytest.fixture(scope="module")
def planned() -> Plan:
    model = CHAT | {"adapters": {"resident": 12, "rank": 24}}
    return make_plan(spec(model), Run(diagnostics=Diagnostics()))


def test_a_fleet_plans_with_them_and_the_checker_agrees(planned: Plan) -> None:
    found = planned
    problem_ = problem_of(found)
    assert verify_plan(found, problem_).passed
    for pool in found.pools:
        assert (pool.limits["max_loras"], pool.limits["max_lora_rank"]) == (12, 24)
        assert any(part.name == "adapters" for stage in pool.memory for part in stage.parts)


def test_engines_are_told_and_those_that_have_no_such_setting_refuse(planned: Plan) -> None:
    (part,) = model_parts(planned, problem_of(planned))
    files = BACKENDS.get("vllm").export(part.plan, ExportOptions())
    text = "\n".join(file.text for file in files)
    # vLLM makes room for ranks of 16, 32, ...
    assert "max-lora-rank: 32" in text or "--max-lora-rank 32" in text
    assert "max-loras: 12" in text or "--max-loras 12" in text
    pools = [pool.model_copy(update={"engine": "sglang"}) for pool in part.plan.pools]
    files = BACKENDS.get("sglang").export(part.plan.model_copy(update={"pools": pools}), ExportOptions())
    assert "max-loras-per-batch" in "\n".join(file.text for file in files)
    pools = [pool.model_copy(update={"engine": "trtllm"}) for pool in part.plan.pools]
    with pytest.raises(InputError, match="trtllm cannot express this"):
        BACKENDS.get("trtllm").export(part.plan.model_copy(update={"pools": pools}), ExportOptions())


def test_vllm_refuses_a_rank_that_it_makes_no_room_for(planned: Plan) -> None:
    (part,) = model_parts(planned, problem_of(planned))
    pools = [
        pool.model_copy(update={"limits": pool.limits | {"max_lora_rank": 600}}) for pool in part.plan.pools
    ]
    with pytest.raises(InputError, match="no adapters of this rank"):
        BACKENDS.get("vllm").export(part.plan.model_copy(update={"pools": pools}), ExportOptions())


SERVING = {
    "model": "llama-3.1-8b",
    "cluster": "1xh100",
    "workload": {"input_tokens": 1000, "output_tokens": 100, "rate": "3/s"},
    "adapters": {"resident": 6, "rank": 32},
}


def test_a_served_model_takes_them_too_and_the_checker_counts_them() -> None:
    found = make_plan(SERVING, Run(diagnostics=Diagnostics()))
    (pool,) = found.pools
    assert (pool.limits["max_loras"], pool.limits["max_lora_rank"]) == (6, 32)
    case = problem_of(found)
    assert verify_plan(found, case).passed
    # A plan that forgets half of them is caught.
    (memory,) = pool.memory
    parts = [
        p.model_copy(update={"num_bytes": p.num_bytes / 2}) if p.name == "adapters" else p
        for p in memory.parts
    ]
    used = sum(part.num_bytes for part in parts)
    fewer = memory.model_copy(update={"parts": parts, "used_bytes": used})
    wrong = found.model_copy(update={"pools": [pool.model_copy(update={"memory": [fewer]})]})
    report = verify_plan(wrong, case)
    assert any("adapters take" in finding.message for finding in report.findings)


def test_adapters_are_refused_where_nobody_prices_them() -> None:
    with pytest.raises(InputError, match="rank"):
        make_plan(SERVING | {"adapters": {"resident": 2, "rank": 0}}, Run(diagnostics=Diagnostics()))
