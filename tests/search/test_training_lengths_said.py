"""What is said beside plans for batches of different lengths, and beside plans that offload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.specs import load_spec, read_problem
from planner.ir.candidates import SearchResult
from planner.search.kinds.training import LENGTHS_METHOD, LENGTHS_SPACE, search
from planner.search.training_lengths_said import say_lengths_gap

LENGTHS = Path(__file__).parents[1] / "data" / "lengths" / "drawn.csv"
DENSE = {
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
MIXTURE = {
    **DENSE,
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
}
PACKED = {"global_batch": 16, "lengths": str(LENGTHS), "num_batches": 1}


def said(model: dict[str, Any], **changes: Any) -> tuple[SearchResult, dict[str, str]]:
    spec: dict[str, Any] = {
        "kind": "training",
        "model": model,
        "cluster": "4xl40s",
        "workload": PACKED,
        "objective": "min_step_time",
        **changes,
    }
    diagnostics = Diagnostics()
    result = search(read_problem(load_spec(spec), diagnostics), diagnostics)
    return result, {entry.code: entry.message for entry in diagnostics.entries}


def test_experts_that_are_not_spread_are_said_so() -> None:
    result, notes = said(MIXTURE)
    assert dict(result.pools[0].degrees)["ep"] == 1
    assert "ep 1" in notes["training-lengths-experts"]
    assert "training-lengths-experts" not in said(DENSE)[1]
    assert "training-lengths-experts" not in said(MIXTURE, workload={"global_batch": 4, "seq_len": 1024})[1]


def test_schedules_are_no_matter_where_there_is_no_pipeline() -> None:
    assert "schedule-default" not in said(DENSE)[1]
    assert "schedule-default" in said(DENSE, workload={"global_batch": 4, "seq_len": 1024})[1]


@pytest.mark.parametrize(
    ("gap", "interrupted", "expected"), [(0.04, False, 1), (0.0, False, 0), (0.04, True, 0)]
)
def test_a_gap_is_explained_where_it_is_that_of_packings(
    gap: float, interrupted: bool, expected: int
) -> None:
    diagnostics = Diagnostics()
    say_lengths_gap(gap, interrupted, diagnostics)
    assert [entry.code for entry in diagnostics.entries] == ["training-lengths-gap"] * expected


def why_not(**changes: Any) -> SearchResult:
    result, _ = said(DENSE, **changes)
    assert (result.status, result.method, result.space) == ("infeasible", LENGTHS_METHOD, LENGTHS_SPACE)
    assert result.infeasibility is not None
    first = result.infeasibility.binding[0]
    assert first.name == "longest_sequence_tokens"
    assert first.limit is not None
    assert first.best_reachable is not None
    assert first.limit < first.best_reachable
    assert all(limit.name != "space" for limit in result.infeasibility.binding)
    return result


def test_where_states_fill_the_devices_it_is_said() -> None:
    result = why_not(memory_reserve="47GB")
    assert result.infeasibility is not None
    assert "leave no room" in result.infeasibility.binding[0].message


def test_where_a_sequence_is_too_long_it_is_said_how_long_it_may_be(tmp_path: Path) -> None:
    file = tmp_path / "lengths.csv"
    file.write_text("\n".join(["length", "4000000", *["512"] * 3]))
    workload = {"global_batch": 4, "lengths": str(file), "num_batches": 1}
    result = why_not(workload=workload)
    assert result.infeasibility is not None
    most = result.infeasibility.binding[0].limit
    assert most is not None
    assert most > 0.0
    assert f"of any plan holds {most:.0f}" in result.infeasibility.binding[0].message
    cut = {**workload, "seq_len": int(most)}
    assert said(DENSE, workload=cut)[0].status != "infeasible"


def test_offload_says_how_the_update_is_priced_or_that_it_is_not() -> None:
    away, unknown, here = (
        said(
            DENSE,
            workload={"global_batch": 4, "seq_len": 1024},
            offload=["none", "optimizer"],
            fix={"offload": offload},
            **cluster,
        )[1]
        for offload, cluster in (
            ("optimizer", {"cluster": "4xa100"}),
            ("optimizer", {}),
            ("none", {}),
        )
    )
    assert "GB/s of a host's memory" in away["training-host-update"]
    assert "per 1e9 parameters" in unknown["training-host-update"]
    assert "training-host-update" not in here
