"""Rows that cannot be priced are refused with a reason, and names are understood as people write them."""

import csv

import pytest

from planner.accuracy.devices import find_device
from planner.accuracy.kernels import read_kernels
from planner.accuracy.score import score_kernels

GOOD = {
    "gemm": {"gpu": "h100", "dtype": "bf16", "m": 64, "n": 4096, "k": 4096, "time_us": 20},
    "attention": {
        "gpu": "h100", "phase": "decode", "batch": 8, "q_len": 1, "kv_len": 1024, "heads": 32, "kv_heads": 8,
        "head_dim": 128, "window": 0, "kind": "gqa", "time_us": 20,
    },
    "moe": {
        "gpu": "h100", "dtype": "bf16", "tokens": 64, "hidden": 4096, "inter": 14336, "topk": 2, "experts": 8,
        "tp": 1, "ep": 1, "routing": "balanced", "time_us": 900,
    },
    "collective": {
        "gpu": "h100", "op": "all_reduce", "n_gpus": 8, "nodes": 1, "message_bytes": 1048576, "time_us": 40,
    },
}  # fmt: skip


def scores(tmp_path, row):
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(row))
        writer.writeheader()
        writer.writerow(row)
    return score_kernels(read_kernels(path))


@pytest.mark.parametrize("kind", GOOD)
def test_columns_may_be_permuted_and_joined_by_others(tmp_path, kind):
    plain = scores(tmp_path, GOOD[kind])
    turned = scores(tmp_path, {"note": "x, y", **dict(reversed(GOOD[kind].items()))})
    assert plain == turned
    assert plain[0].num_refused == 0


@pytest.mark.parametrize(
    ("kind", "change", "reason"),
    [
        ("gemm", {"m": -1}, "m is not positive"),
        ("gemm", {"m": 1.5}, "m is not a whole number"),
        ("gemm", {"k": "1e300"}, "k is larger than"),
        ("gemm", {"time_us": "nan"}, "time_us is not a finite number"),
        ("gemm", {"gpu": "potato"}, "no device profile is called 'potato'"),
        ("gemm", {"dtype": "int3"}, "no known format"),
        ("attention", {"kv_heads": 64}, "kv_heads exceeds heads"),
        ("attention", {"kv_heads": 0}, "kv_heads is not positive"),
        ("attention", {"phase": "prefill", "q_len": 4096}, "q_len exceeds kv_len"),
        ("attention", {"window": -4}, "window is negative"),
        ("attention", {"phase": "chunk"}, "neither prefill nor decode"),
        ("moe", {"topk": 20}, "topk exceeds experts"),
        ("moe", {"ep": 16}, "ep exceeds experts"),
        ("moe", {"tp": 0}, "tp is not positive"),
        ("moe", {"routing": "zipf"}, "no known distribution"),
        ("collective", {"n_gpus": "inf"}, "n_gpus 'inf' is not a whole number"),
        ("collective", {"n_gpus": 9, "nodes": 2}, "is no group"),
        ("collective", {"op": "gather"}, "no known collective"),
        ("collective", {"message_bytes": ""}, "message_bytes is blank"),
    ],
)
def test_a_row_that_means_nothing_is_refused_with_its_reason(tmp_path, kind, change, reason):
    (score,) = scores(tmp_path, GOOD[kind] | change)
    assert (score.num_rows, score.num_refused) == (1, 1)
    assert reason in next(iter(score.refusals))


@pytest.mark.parametrize("op", ["AllReduce", "all-reduce", "allreduce"])
def test_operations_are_known_by_their_usual_spellings(tmp_path, op):
    (score,) = scores(tmp_path, GOOD["collective"] | {"op": op})
    assert score.num_refused == 0


@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("H100-SXM5-80GB", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("A100_80G", "a100"),
        ("a100_dgx", "a100"),
        ("a100_pairwise_nvlink", "a100-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("B200-SXM-180GB", "b200"),
        ("AMD Instinct MI300X", "mi300x"),
        ("H100-SXM5-40GB", None),
        ("H20-3e", None),
        ("nvidia", None),
        ("80GB", None),
    ],
)
def test_devices_are_known_by_the_names_of_their_boards(name, device):
    found = find_device(name)
    assert (found.name if found else None) == device
