"""Resharding between two training plans, against states counted cell by cell."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from planner.cli.main import main
from planner.errors import InputError
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.resharding import reshard

MODEL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EMBEDDING = HEAD = 32000 * 1024
LAYER = 2 * 1024 * 1024 + 2 * 1024 * 256 + 3 * 1024 * 2816 + 2 * 1024
FINAL_NORM = 1024
STATE_BYTES = 12.0


@cache
def plan(tp: int, pp: int, dp: int, zero: int, cluster: str = "2x4xh100@ib400") -> Plan:
    spec: dict[str, Any] = {
        "kind": "training",
        "model": MODEL,
        "cluster": cluster,
        "workload": {"global_batch": 16, "seq_len": 4096},
        "objective": "min_step_time",
        "fix": {"tp": tp, "pp": pp, "dp": dp, "cp": 1, "zero": zero, "num_chunks": 1},
    }
    return make_plan(spec, Run())


def cells(found: Plan) -> dict[str, set[tuple[int, int, int]]]:
    """The cells (part of the model, eighth of the tensors, eighth of the shares) that every node holds."""
    pool = found.pools[0]
    assert pool.training is not None
    s, held = pool.strategy, dict[str, set[tuple[int, int, int]]]()
    for rank, device in enumerate(found.placement[0].devices):
        tensor, data, stage = rank % s.tp, rank // s.tp % s.dp, rank // (s.tp * s.dp)
        before = sum(pool.training.layers_per_chunk[:stage])
        parts = [1 + before + n for n in range(pool.training.layers_per_chunk[stage])]
        parts += [0] * (stage == 0) + [9] * (stage == s.pp - 1)
        shards = pool.training.dp_shard if pool.training.zero else 1
        share = data % shards
        for part in parts:
            for t in range(8 * tensor // s.tp, 8 * (tensor + 1) // s.tp):
                for d in range(8 * share // shards, 8 * (share + 1) // shards):
                    held.setdefault(device.partition("/")[0], set()).add((part, t, d))
    return held


def expected_bytes(before: Plan, after: Plan) -> dict[str, float]:
    held = cells(before)
    sizes = {0: EMBEDDING, 9: HEAD + FINAL_NORM}
    return {
        node: sum(
            sizes.get(part, LAYER) / 64.0 * STATE_BYTES for part, _, _ in wanted - held.get(node, set())
        )
        for node, wanted in cells(after).items()
    }


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((2, 1, 4, 1), (4, 1, 2, 1)),
        ((2, 2, 2, 1), (1, 1, 8, 1)),
        ((4, 2, 1, 0), (2, 2, 2, 1)),
        ((1, 4, 2, 1), (2, 2, 2, 0)),
        ((2, 2, 2, 1), (2, 2, 2, 1)),
    ],
)
def test_nodes_receive_what_they_lack(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    before, after = plan(*old), plan(*new)
    found = reshard(before, after)
    expected = expected_bytes(before, after)
    assert found.total_bytes == pytest.approx(sum(expected.values()), rel=1e-9, abs=1.0)
    assert found.busiest_node_bytes == pytest.approx(max(expected.values()), rel=1e-9, abs=1.0)
    assert found.state_bytes == pytest.approx(
        (EMBEDDING + HEAD + FINAL_NORM + 8 * LAYER) * STATE_BYTES, rel=1e-9
    )
    assert found.time_s == pytest.approx(found.busiest_node_bytes / (4 * 50e9), rel=1e-6)


def test_nodes_that_are_new_take_everything_and_storage_moves_all_of_it_twice() -> None:
    before, after = plan(2, 1, 4, 1, "8xh100"), plan(2, 1, 4, 1)
    found = reshard(before, after, storage_bytes_per_s=1e9, node_bytes_per_s=1e9)
    assert found.busiest_node == "h100-1"
    assert found.busiest_node_bytes == pytest.approx(found.state_bytes / 2, rel=1e-6)
    assert found.through_storage_s == pytest.approx(2 * found.state_bytes / 1e9)


def test_the_command_prints_and_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    write_plan(one, plan(2, 1, 4, 1))
    write_plan(two, plan(4, 1, 2, 1))
    assert main(["reshard", str(one), str(two), "--storage", "2TB/s"]) == 0
    assert "over storage" in capsys.readouterr().out
    assert main(["reshard", str(one), str(two), "--json"]) == 0
    assert '"total_bytes"' in capsys.readouterr().out
    assert main(["reshard", str(one), str(two), "--storage", "fast"]) == 2
    with pytest.raises(InputError, match="no training job"):
        reshard(plan(2, 1, 4, 1), plan(2, 1, 4, 1).model_copy(update={"pools": []}))
