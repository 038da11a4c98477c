"""Resident bytes against counts by hand and against the model's own totals."""

from __future__ import annotations

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.strategy import ServingStrategy
from planner.space.compose import ReplicaShape
from planner.space.memory import Residency, usable_bytes
from planner.space.replica import ReplicaBuilder
from tests.serving_cases import H200, cluster, costs, group, problem


def builder(name: str, **choices: object) -> ReplicaBuilder:
    where = group(H200, 2)
    model = load_model(name, diagnostics=Diagnostics())
    case = problem(model, cluster(where), **choices)  # type: ignore[arg-type]
    return ReplicaBuilder(problem=case.payload, group=where, costs=costs(where, "vllm"))


def shape(strategy: ServingStrategy, fmt: str = "bf16") -> ReplicaShape:
    return ReplicaShape(
        role="decode",
        group="g",
        engine="vllm",
        weight_fmt=fmt,
        kv_fmt="auto",
        strategy=strategy,
        token_budget=2048,
        max_num_seqs=256,
    )


def test_one_rank_holds_every_parameter() -> None:
    made = builder("llama-3.1-8b")
    stage = made.stage_bytes(shape(ServingStrategy()), (32,))[0]
    assert dict(stage.parts)["weights"] == pytest.approx(made.model.num_params * 2.0, rel=1e-6)


def test_tensor_ranks_share_matrices_but_not_norms() -> None:
    made = builder("llama-3.1-8b")
    stage = made.stage_bytes(shape(ServingStrategy(tp=8)), (32,))[0]
    norms = (2 * 32 + 1) * 4096
    matrices = made.model.num_params - norms
    assert dict(stage.parts)["weights"] == pytest.approx((matrices / 8 + norms) * 2.0, rel=1e-6)


def test_kv_heads_are_copied_beyond_their_number() -> None:
    made = builder("llama-3.1-8b")
    at = {
        tp: made.stage_bytes(shape(ServingStrategy(tp=tp)), (32,))[0].cache_bytes_longest for tp in (4, 8, 16)
    }
    tokens = -(-4500 // 16) * 16
    assert at[8] == 32 * tokens * 1 * 256 * 2
    assert at[4] == 2 * at[8]
    assert at[16] == at[8]
    split = made.stage_bytes(shape(ServingStrategy(tp=16, decode_cp=2)), (32,))[0]
    assert split.cache_bytes_longest == at[8] / 2


def test_latent_caches_are_whole_on_every_rank() -> None:
    made = builder("deepseek-v3")
    one, eight = (
        made.stage_bytes(shape(ServingStrategy(tp=tp, ep=tp), "fp8_block"), (61,))[0] for tp in (1, 8)
    )
    assert one.cache_bytes_longest == eight.cache_bytes_longest == 61 * 4512 * 576 * 2


def test_stages_hold_their_layers_the_first_the_table_the_last_the_head() -> None:
    made = builder("llama-3.1-8b")
    stages = made.stage_bytes(shape(ServingStrategy(pp=4)), (8, 8, 8, 8))
    whole = made.stage_bytes(shape(ServingStrategy()), (32,))[0]
    weights = [dict(stage.parts)["weights"] for stage in stages]
    assert sum(weights) == pytest.approx(dict(whole.parts)["weights"], rel=1e-9)
    table = 128256 * 4096 * 2
    assert weights[0] - weights[1] == pytest.approx(table, rel=1e-3)
    assert weights[3] - weights[2] == pytest.approx(table, rel=1e-3)


def test_tied_tables_are_held_twice_by_a_pipeline_and_once_without() -> None:
    made = builder("qwen3-0.6b")
    assert made.model.tied_embeddings
    whole = dict(made.stage_bytes(shape(ServingStrategy()), (28,))[0].parts)["weights"]
    parts = made.stage_bytes(shape(ServingStrategy(pp=2)), (14, 14))
    assert whole == pytest.approx(made.model.num_params * 2.0, rel=1e-3)
    assert sum(dict(p.parts)["weights"] for p in parts) > whole * 1.2


def test_experts_are_spread_and_everything_is_reported() -> None:
    made = builder("deepseek-v3")
    eight = made.stage_bytes(shape(ServingStrategy(tp=8, ep=8), "fp8_block"), (61,))[0]
    sixteen = made.stage_bytes(shape(ServingStrategy(tp=8, attention_dp=2, ep=16), "fp8_block"), (61,))[0]
    assert dict(sixteen.parts)["weights"] < 0.6 * dict(eight.parts)["weights"]
    assert [name for name, _ in eight.parts] == [
        "weights",
        "activations",
        "communication",
        "graphs",
        "context",
    ]
    assert all(num_bytes > 0 for _, num_bytes in eight.parts)


@pytest.mark.parametrize(("scope", "usable"), [("device", 90.0), ("static", 98.0), ("free", 96.0)])
def test_the_share_of_memory_is_of_what_the_engine_means(scope: str, usable: float) -> None:
    what = Residency(
        strategy=ServingStrategy(),
        weight_fmt="bf16",
        kv_fmt="auto",
        token_budget=1.0,
        max_sequences=1.0,
        memory_fraction=0.9,
        memory_scope=scope,
    )
    parts = (("weights", 52.0), ("activations", 8.0))
    assert usable_bytes(100.0, parts, what) == pytest.approx(usable)


def test_caches_get_nothing_where_the_rest_is_too_much() -> None:
    what = Residency(
        strategy=ServingStrategy(),
        weight_fmt="bf16",
        kv_fmt="auto",
        token_budget=1.0,
        max_sequences=1.0,
        memory_fraction=0.9,
        memory_scope="free",
    )
    assert usable_bytes(100.0, (("weights", 101.0),), what) == 100.0
