"""The space: what is enumerated, what is left out, what pins do."""

from __future__ import annotations

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.serving import Role
from planner.space.compose import ReplicaShape, shapes
from planner.space.dimension import DIMENSIONS, SpaceFacts
from planner.space.replica import requests_of
from tests.serving_cases import H200, cluster, costs, group, problem


def space(
    name: str, role: Role, nodes: int = 1, engine: str = "vllm", **choices: object
) -> list[ReplicaShape]:
    where = group(H200, nodes)
    model = load_model(name, diagnostics=Diagnostics())
    case = problem(model, cluster(where), weight_fmts=("bf16", "fp8"), **choices)  # type: ignore[arg-type]
    facts = SpaceFacts(
        model=model,
        group=where,
        engine=costs(where, engine),
        choices=case.payload.choices,
        requests=requests_of(case.payload.workload.lengths, 0.0),
        role=role,
        max_devices=where.num_devices,
    )
    return list(shapes(facts))


def test_every_dimension_is_registered_once_and_described() -> None:
    found = dict(DIMENSIONS.items())
    assert set(found) >= {"tp", "pp", "ep", "moe-tp", "attention-dp", "prefill-cp", "decode-cp"}
    assert len({dim.order for dim in found.values()}) == len(found)
    for name, dim in found.items():
        assert dim.name == name.replace("-", "_")


def test_dense_shapes_fit_the_node_and_divide_the_heads() -> None:
    found = space("llama-3.1-70b", "decode")
    assert {s.strategy.tp for s in found} == {1, 2, 4, 8}
    assert all(s.strategy.num_devices <= 8 for s in found)
    assert all(s.strategy.ep == s.strategy.attention_dp == 1 for s in found)
    whole = space("llama-3.1-70b", "aggregated")
    assert {s.strategy.pp for s in whole if s.strategy.tp == 1} == set(range(1, 9))


def test_expert_shapes_spread_over_all_ranks_or_none_unless_the_engine_can_mix() -> None:
    found = space("deepseek-v3", "decode", 2)
    assert all(s.strategy.ep * s.strategy.moe_tp == s.strategy.stage_devices for s in found)
    assert all(s.strategy.ep in (1, s.strategy.stage_devices) for s in found)
    mixed = space("deepseek-v3", "decode", 2, engine="trtllm")
    assert any(1 < s.strategy.ep < s.strategy.stage_devices for s in mixed)
    assert any(s.strategy.attention_dp == 16 for s in found)
    assert any(s.strategy.attention_dp > 1 and s.strategy.tp > 1 for s in found)
    assert all(s.strategy.tp == 1 for s in mixed if s.strategy.attention_dp > 1)
    assert any(s.strategy.decode_cp == 8 for s in found)


def test_prefill_context_parallelism_waits_for_engines_that_run_it_or_for_a_pin() -> None:
    assert {s.strategy.prefill_cp for s in space("llama-3.1-70b", "prefill")} == {1}
    assert 2 in {s.strategy.prefill_cp for s in space("llama-3.1-70b", "prefill", fixed=(("cp", 2),))}


def test_stages_of_decode_wait_for_a_pin_where_the_engine_cannot_be_handed_caches() -> None:
    assert {s.strategy.pp for s in space("llama-3.1-70b", "decode")} == {1}
    assert max(s.strategy.pp for s in space("llama-3.1-70b", "prefill")) > 1
    assert {s.strategy.pp for s in space("llama-3.1-70b", "decode", fixed=(("pp", 3),))} == {3}


@pytest.mark.parametrize("pin", [("tp", 4), ("pp", 3), ("token_budget", 3000), ("max_num_seqs", 17)])
def test_pins_hold(pin: tuple[str, int]) -> None:
    found = space("llama-3.1-70b", "aggregated", fixed=(pin,))
    assert found
    for shape in found:
        value = getattr(shape, pin[0]) if pin[0] in ("token_budget", "max_num_seqs") else None
        assert (value if value is not None else getattr(shape.strategy, pin[0])) == pin[1]


def test_both_formats_are_in_the_space() -> None:
    assert {s.weight_fmt for s in space("llama-3.1-70b", "decode")} == {"bf16", "fp8"}
