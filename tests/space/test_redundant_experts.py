"""Copies of hot experts: memory and loads by hand, the best number of them, what engines are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.backends import BACKENDS, ExportOptions
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.space.expert_copies import expert_map, mean_skew
from planner.verify import problem_of, verify_plan
from planner.verify.serving.expert_skew import skew_of

EXPERTS, LAYERS, RANKS = 128, 48, 8
"""Of Qwen3 30B-A3B on 8 ranks."""
EXPERT_BYTES = 2.0 * 3 * 2048 * 768
LOADS = [
    [1000.0 / (1 + (37 * e + 11 * row) % EXPERTS) ** 0.5 for e in range(EXPERTS)] for row in range(LAYERS)
]
SPEC = {
    "model": "qwen3-30b-a3b",
    "cluster": "8xh100",
    "workload": {"input_tokens": 2000, "output_tokens": 500},
    "fix": {"tp": 1, "attention_dp": RANKS, "ep": RANKS, "max_num_seqs": 256},
    "objective": "max_throughput",
    "modes": ["aggregated"],
    "search": {"alternatives": 0},
}


@pytest.fixture(scope="module")
def loads(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("loads") / "loads.json"
    file.write_text(json.dumps({"logical_count": LOADS}))
    return str(file)


def planned(**more: object) -> Plan:
    return make_plan(SPEC | more, Run(diagnostics=Diagnostics()))


def weights(plan: Plan) -> float:
    (pool,) = plan.pools
    return sum(part.num_bytes for part in pool.memory[0].parts if part.name == "weights")


def throughput(plan: Plan) -> float:
    assert plan.objective.value is not None
    return plan.objective.value


def test_every_rank_holds_its_share_of_the_copies() -> None:
    plain, copied = planned(), planned(redundant_experts=16)
    assert weights(copied) - weights(plain) == pytest.approx(LAYERS * 16 / RANKS * EXPERT_BYTES)
    assert copied.pools[0].limits["redundant_experts"] == 16
    assert verify_plan(copied, problem_of(copied)).passed


def test_loads_are_counted_by_hand() -> None:
    # Expert 0 has half of all: a copy halves it, and then each rank has 3 of 12.
    layer = (6.0, 2.0, 2.0, 2.0)
    assert mean_skew((layer,), 2, 0) == pytest.approx(8.0 / 6.0)
    assert mean_skew((layer,), 3, 2) == pytest.approx(4.0 / 4.0)
    assert mean_skew(((0.0,) * 4,), 2, 0) == 1.0
    (slots,) = expert_map((layer,), 3, 2)
    assert sorted(slots) == [0, 0, 0, 1, 2, 3]


def test_the_number_of_copies_is_the_best_of_those_allowed(loads: str) -> None:
    each = {n: planned(expert_loads=loads, redundant_experts=n) for n in (0, 8, 64)}
    both = planned(expert_loads=loads, redundant_experts=[0, 8, 64])
    assert throughput(both) == pytest.approx(max(map(throughput, each.values())))
    assert throughput(each[8]) > throughput(each[0])
    assert verify_plan(both, problem_of(both)).passed


def test_the_checker_counts_the_loads_of_the_slots_itself(loads: str) -> None:
    plan = planned(expert_loads=loads, redundant_experts=8)
    case = problem_of(plan)
    rows = plan.details["expert_maps"]["aggregated"]  # pyright: ignore[reportIndexIssue, reportUnknownVariableType] - plain data
    table = tuple(tuple(row) for row in rows)
    own = skew_of(case.payload, plan.pools[0], table)
    assert own == pytest.approx(mean_skew(tuple(map(tuple, LOADS)), RANKS, 8), rel=1e-9)
    for wrong in ({}, {"expert_maps": {"aggregated": [[0] * 136] * LAYERS}}):
        report = verify_plan(
            plan.model_copy(update={"details": plan.details | {"expert_maps": {}} | wrong}), case
        )
        assert "choices" in report.failed_rules
    payload = replace(case.payload, choices=replace(case.payload.choices, redundant_experts=(0,)))
    assert "choices" in verify_plan(plan, replace(case, payload=payload)).failed_rules


def test_engines_are_told_how_many_and_where(loads: str) -> None:
    plan = planned(expert_loads=loads, redundant_experts=8)
    text = "\n".join(file.text for file in BACKENDS.get("vllm").export(plan, ExportOptions()))
    assert "num_redundant_experts: 8" in text
    assert "enable-eplb: true" in text
    found = planned(expert_loads=loads, redundant_experts=8, engine="sglang")
    text = "\n".join(file.text for file in BACKENDS.get("sglang").export(found, ExportOptions()))
    assert "ep-num-redundant-experts: 8" in text
    assert "physical_to_logical_map" in text
    blind = planned(redundant_experts=8, engine="sglang")
    text = "\n".join(file.text for file in BACKENDS.get("sglang").export(blind, ExportOptions()))
    assert "enable-eplb: true" in text
    pools = [one.model_copy(update={"engine": "trtllm"}) for one in plan.pools]
    with pytest.raises(InputError, match="trtllm cannot express this"):
        BACKENDS.get("trtllm").export(plan.model_copy(update={"pools": pools}), ExportOptions())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"redundant_experts": [0, 8]}, "follows from the loads"),
        ({"redundant_experts": 8, "model": "llama-3.1-8b"}, "no routed experts"),
        ({"redundant_experts": 8, "engine": "trtllm"}, "none of the engines"),
        ({"redundant_experts": -1}, "greater than or equal to 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        planned(**more)


def test_loads_of_another_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "loads.json"
    file.write_text(json.dumps([[1.0] * 64] * LAYERS))
    with pytest.raises(InputError, match="48 layers of 64 experts"):
        planned(expert_loads=str(file))
