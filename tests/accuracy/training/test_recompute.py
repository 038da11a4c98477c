"""What a row leaves open: some layers recomputed, full sharding as a last resort, a stack's own defaults."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from planner.accuracy.training.predict import Prediction, predict, question_of
from planner.accuracy.training.rows import read_training
from planner.accuracy.training.score import score_training

RUNS = Path(__file__).parents[2] / "data" / "training" / "runs.csv"


def _file(tmp_path: Path, **cells: str) -> Path:
    with RUNS.open(encoding="utf-8") as handle:
        base = next(row for row in csv.DictReader(handle) if row["source"].startswith("calculon"))
    path = tmp_path / "runs.csv"
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(base))
        writer.writeheader()
        writer.writerow(base | cells)
    return path


def _predict(tmp_path: Path, **cells: str) -> Prediction:
    return predict(question_of(read_training(_file(tmp_path, **cells)).rows[0]))


LLAMA = {"model": "Llama-3.1-70B", "params_B": "70.6", "layers": "80", "hidden": "8192", "heads": "64",
         "kv_heads": "8", "ffn": "28672", "vocab": "128256", "seq_len": "8192", "gpus": "64",
         "gpu_type": "H100-SXM5-80GB", "tp": "4", "pp": "4", "dp": "4", "micro_batch": "2",
         "global_batch": "128", "zero_stage": "1", "precision": "bf16", "schedule": "1F1B", "notes": "",
         "source": "megatron-core", "value": "30"}  # fmt: skip


def test_a_run_that_fits_neither_way_recomputes_some_layers(tmp_path: Path) -> None:
    none, full, open_ = (_predict(tmp_path, **LLAMA, recompute=word) for word in ("none", "full", ""))
    assert not none.fits
    assert full.fits
    assert open_.fits
    assert none.step_s < open_.step_s < full.step_s
    assert full.peak_bytes < open_.peak_bytes < none.peak_bytes
    assert any("recompute" in note and "of the layers" in note for note in open_.assumed)


def test_full_sharding_is_taken_only_where_nothing_else_fits(tmp_path: Path) -> None:
    cells = LLAMA | {"tp": "1", "pp": "1", "dp": "64", "micro_batch": "1", "recompute": "full"}
    assert _predict(tmp_path, **cells).fits is False
    guessed = _predict(tmp_path, **(cells | {"zero_stage": "distributed optimizer (1) assumed"}))
    assert guessed.fits
    assert guessed.strategy.zero == 3
    roomy = _predict(tmp_path, **(LLAMA | {"zero_stage": "", "recompute": "full"}))
    assert roomy.strategy.zero == 1


def test_torchtitan_takes_one_micro_batch_per_stage(tmp_path: Path) -> None:
    cells = LLAMA | {"source": "torchtitan 2024-12", "micro_batch": "", "zero_stage": "FSDP2 (3 or 2)",
                     "recompute": "full", "virtual_pp": ""}  # fmt: skip
    plain = _predict(tmp_path, **cells)
    assert plain.strategy.micro_batch == 128 // 4 // 4
    chunked = _predict(tmp_path, **(cells | {"schedule": "interleaved 1F1B"}))
    assert chunked.strategy.num_chunks == 2
    assert chunked.strategy.micro_batch == 128 // 4 // 8


def test_parts_of_the_memory_are_no_run(tmp_path: Path) -> None:
    cells = {"metric": "memory_activations_GiB", "value": "100", "recompute": "none", "micro_batch": "4"}
    figure = score_training(read_training(_file(tmp_path, **cells)))
    assert not figure.predictions[0].fits
    assert sum(score.wrongly_infeasible for score in figure.scores) == 0


@pytest.mark.parametrize(("device", "gibibytes"), [("H100-96GB-HBM2e", 95.6), ("H100-SXM5-80GB", 79.6)])
def test_nominal_gigabytes_are_those_of_the_driver(tmp_path: Path, device: str, gibibytes: float) -> None:
    question = question_of(read_training(_file(tmp_path, gpu_type=device)).rows[0])
    stated = question.cluster.group.device.driver_memory_bytes
    assert stated is not None
    assert stated.value / 2**30 == pytest.approx(gibibytes, abs=0.1)
