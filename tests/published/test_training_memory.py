"""Published peaks of allocated memory: Llama-2-7B on 8 devices under Megatron-LM of 2023.

Source: NVIDIA/Megatron-LM pull request 482, tools/get_training_info/README.md: torch's max_memory_allocated
in GB of 2^30 bytes, with 2048 tokens, flash attention, a distributed optimizer, no sequence parallelism.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from planner.accuracy.training.predict import predict, question_of
from planner.accuracy.training.rows import read_training

SOURCE = "NVIDIA/Megatron-LM PR #482 tools/get_training_info/README.md"
RUNS = [(1, 1, 2, 2048, 69.1), (2, 1, 4, 512, 55.7), (1, 2, 2, 2048, 49.8), (8, 1, 4, 128, 28.8)]


@pytest.mark.parametrize(("tp", "pp", "micro_batch", "global_batch", "measured"), RUNS)
def test_peak_of_allocated_memory(
    tmp_path: Path, tp: int, pp: int, micro_batch: int, global_batch: int, measured: float
) -> None:
    cells = {"source": SOURCE, "model": "Llama-2-7B", "layers": 32, "hidden": 4096, "heads": 32}
    # What was assumed of the length where the table was copied gives way to what the source says.
    cells |= {"seq_len": 4096, "gpus": 8, "gpu_type": "H800-80GB", "interconnect": "single node"}
    cells |= {"tp": tp, "pp": pp, "dp": 8 // (tp * pp), "micro_batch": micro_batch}
    cells |= {"global_batch": global_batch, "precision": "bf16", "notes": ""}
    cells |= {"metric": "peak_memory_allocated_GB", "value": measured}
    path = tmp_path / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, fieldnames=list(cells))
        writer.writeheader()
        writer.writerow(cells)
    found = predict(question_of(read_training(path).rows[0]))
    assert found.predicted_bytes == pytest.approx(measured * 2**30, rel=0.02)
    assert any("worked example" in text for text in found.assumed)
