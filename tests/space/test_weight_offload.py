"""Weights in host memory: bytes by hand, waits against a replay of every copy, and the search's choice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.serving.streaming import READ_ROWS, expert_read_bytes, exposed_copies_s
from planner.backends import BACKENDS, ExportOptions
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.models import load_model
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import GIB, WeightOffload
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.search.kinds.serving import search
from planner.space.compose import ReplicaShape
from planner.space.replica import ReplicaBuilder
from planner.verify import problem_of, verify_plan
from tests.serving_cases import cluster, costs, device, group, problem

SMALL = device("small-test", 24e9, 1.0e12, 120e12, 240e12)
LAYER_BYTES = 2.0 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096)
"""Of Llama 3.1 8B in 16 bit; it has 32."""


def builder(engine: str = "vllm", nodes: int = 2) -> ReplicaBuilder:
    where = group(SMALL, nodes)
    case = problem(load_model("llama-3.1-8b", diagnostics=Diagnostics()), cluster(where))
    return ReplicaBuilder(problem=case.payload, group=where, costs=costs(where, engine))


def shape(offload: str, tp: int = 1, pp: int = 1) -> ReplicaShape:
    return ReplicaShape(
        role="decode",
        group="g",
        engine="vllm",
        weight_fmt="bf16",
        kv_fmt="auto",
        strategy=ServingStrategy(tp=tp, pp=pp),
        token_budget=1024,
        max_num_seqs=64,
        offload=offload,
    )


@pytest.mark.parametrize("told", ["", "1/4 layers", "7 GiB", "12 GiB of experts"])
def test_a_choice_is_read_as_it_was_written(told: str) -> None:
    offload = WeightOffload.of_text(told)
    assert offload.text == told
    assert WeightOffload.of_limits(dict(offload.limits)) == offload
    with pytest.raises(ValueError, match="host memory"):
        WeightOffload.of_text("some layers")


@pytest.mark.parametrize(("told", "away"), [("1/4 layers", 8), ("3/4 layers", 24), ("1/1 layers", 32)])
def test_layers_leave_the_device_but_for_one_buffer(told: str, away: int) -> None:
    made = builder()
    (stage,), (whole,) = made.stage_bytes(shape(told), (32,)), made.stage_bytes(shape(""), (32,))
    assert stage.host_bytes == pytest.approx(away * LAYER_BYTES)
    assert stage.free_bytes - whole.free_bytes == pytest.approx((away - 1) * LAYER_BYTES)


def test_every_stage_counts_its_own_layers_and_tensor_ranks_their_share() -> None:
    stages = builder().stage_bytes(shape("1/6 layers", tp=2, pp=2), (15, 17))
    # Layers 5 and 11 of each stage; two more are left over in the first, four in the second.
    norms = 2.0 * 2 * 4096
    for stage in stages:
        assert stage.host_bytes == pytest.approx(2 * ((LAYER_BYTES - norms) / 2 + norms))


def test_an_amount_is_taken_from_the_first_layers() -> None:
    (stage,) = builder("sglang").stage_bytes(shape("5 GiB"), (32,))
    assert stage.host_bytes == 5 * GIB
    assert dict(stage.parts)["weight_buffers"] == pytest.approx(LAYER_BYTES)


def replay_s(num_layers: int, size: int, last: int, layer_s: float, copy_s: float) -> float:
    """Replay a step: one buffer, a copy begins once the layer that used it before is done."""
    clock, ready, first = 0.0, copy_s, True
    for index in range(num_layers):
        if index % size >= size - last:
            # What the step before fetched at its end was waited for there; it is counted here.
            clock = clock + copy_s if first else max(clock, ready)
            first = False
            clock += layer_s
            ready = clock + copy_s
        else:
            clock += layer_s
    return clock


@pytest.mark.parametrize("copy_s", [0.2, 1.0, 2.5, 7.0])
@pytest.mark.parametrize(("size", "last"), [(1, 1), (2, 1), (4, 1), (4, 3), (8, 1)])
def test_what_is_waited_for_is_what_a_replay_waits_for(size: int, last: int, copy_s: float) -> None:
    num_layers, layer_s = 32, 1.0
    groups = num_layers // size
    hidden = groups - 1 if size > last else 0
    between = np.array([(size - last) * layer_s])
    (exposed,) = exposed_copies_s(groups * last, hidden, copy_s, between)
    assert num_layers * layer_s + exposed == pytest.approx(
        replay_s(num_layers, size, last, layer_s, copy_s), rel=1e-12
    )


def test_few_tokens_read_few_experts_and_many_read_them_once_per_tile() -> None:
    tokens = np.array([0.0, 1.0, 1e9])
    read = expert_read_bytes(1000.0, tokens, 2.0, 8.0)
    assert read[:2] == pytest.approx([0.0, 250.0])
    rows = 1e9 * 2.0 / 8.0
    assert read[2] == pytest.approx(1000.0 * np.ceil(rows / READ_ROWS))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_search_takes_the_best_of_all_amounts(engine: str) -> None:
    where = cluster(group(SMALL, 1, 2))
    model = load_model("llama-3.1-8b", diagnostics=Diagnostics())
    options = {"rate": 0.2, "goal": "min_latency", "ttft": None, "tpot": None, "isl": 1000, "osl": 100}
    free = problem(model, where, engines=(engine,), weight_offload=True, modes=("aggregated",), **options)
    found = search(free, Diagnostics(), costs=costs)
    none = search(
        problem(model, where, engines=(engine,), modes=("aggregated",), **options), Diagnostics(), costs=costs
    )
    # With room for everything nothing is gained by leaving weights on the host, so nothing is.
    assert found.objective.value == pytest.approx(none.objective.value)
    assert not [name for pool in found.pools for name, _ in pool.limits if name.startswith("offload")]


SPEC = {
    "model": "llama-3.1-8b",
    "cluster": {
        "device": "rtx-4090",
        "nodes": 1,
        "devices_per_node": 1,
    },
    "workload": {"input_tokens": 6000, "output_tokens": 200, "rate": "0.02/s"},
    "formats": {"weights": ["bf16"]},
    "memory_fraction": 0.75,
    "search": {"alternatives": 0},
}


def planned(**more: object) -> Plan:
    return make_plan(SPEC | more, Run(diagnostics=Diagnostics()))


@pytest.fixture(scope="module")
def streamed() -> Plan:
    return planned(allow_weight_offload=True)


def test_a_model_that_does_not_fit_says_that_weights_may_stay_on_the_host() -> None:
    found = planned()
    assert found.status == "infeasible"
    assert found.infeasibility is not None
    assert "allow_weight_offload" in found.infeasibility.nearest_relaxation


def test_with_leave_it_is_planned_checked_and_exported(streamed: Plan) -> None:
    assert streamed.status == "optimal"
    (pool,) = streamed.pools
    assert pool.predicted["host_weights_bytes"].value > 1e9
    assert verify_plan(streamed, problem_of(streamed)).passed
    text = "\n".join(file.text for file in BACKENDS.get("vllm").export(streamed, ExportOptions()))
    assert "offload-backend" in text
    assert f"offload-group-size: {pool.limits['offload_group_size']}" in text


def test_the_checker_catches_less_waiting_than_there_is_and_more_on_the_host_than_allowed(
    streamed: Plan,
) -> None:
    case = problem_of(streamed)
    (pool,) = streamed.pools
    tpot = pool.predicted["tpot_s"]
    half = tpot.model_copy(update={"value": tpot.value / 2, "low": tpot.value / 4})
    quick = pool.model_copy(update={"predicted": pool.predicted | {"tpot_s": half}})
    assert "load" in verify_plan(streamed.model_copy(update={"pools": [quick]}), case).failed_rules
    payload = replace(case.payload, choices=replace(case.payload.choices, weight_offload=False))
    assert "choices" in verify_plan(streamed, replace(case, payload=payload)).failed_rules
    more = pool.limits | {"offload_num_in_group": 0}
    wrong = streamed.model_copy(update={"pools": [pool.model_copy(update={"limits": more})]})
    assert "memory" in verify_plan(wrong, case).failed_rules


def test_sglang_is_told_an_amount_and_others_refuse_by_name(streamed: Plan) -> None:
    found = planned(allow_weight_offload=True, engine="sglang")
    (pool,) = found.pools
    text = "\n".join(file.text for file in BACKENDS.get("sglang").export(found, ExportOptions()))
    assert f"cpu-offload-gb: {pool.limits['offload_gib']}" in text or "--cpu-offload-gb" in text
    with pytest.raises(InputError, match="none of the engines"):
        planned(allow_weight_offload=True, engine="trtllm")
    pools = [one.model_copy(update={"engine": "trtllm"}) for one in streamed.pools]
    with pytest.raises(InputError, match="trtllm cannot express this"):
        BACKENDS.get("trtllm").export(streamed.model_copy(update={"pools": pools}), ExportOptions())


def test_experts_may_stay_alone_and_are_read_where_asked_for() -> None:
    found = planned(
        model="qwen3-30b-a3b",
        memory_fraction=0.9,
        allow_weight_offload=True,
        workload={"input_tokens": 500, "output_tokens": 50, "rate": "0.01/s"},
    )
    (pool,) = found.pools
    assert pool.limits["offload_experts_gib"] > 0
    assert verify_plan(found, problem_of(found)).passed
    text = "\n".join(file.text for file in BACKENDS.get("vllm").export(found, ExportOptions()))
    assert "cpu-offload-params: experts" in text
    # One token meets 8 of 128 experts, so a step takes far less than all of them would need over the link.
    link = 31.5e9
    assert pool.predicted["tpot_s"].value < 0.25 * pool.predicted["host_weights_bytes"].value / link


def test_explanations_name_what_waits_for_the_host(streamed: Plan) -> None:
    from planner.report.serving_steps import pool_bottlenecks

    case, (pool,) = problem_of(streamed), streamed.pools
    decode = next(b for b in pool_bottlenecks(case, pool) if b.step.startswith("decode"))
    assert dict(decode.shares)["weights from host memory"] > 0.2
    assert decode.step_s == pytest.approx(pool.predicted["tpot_s"].value, rel=0.05)
