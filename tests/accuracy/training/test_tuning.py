"""Tuning a training stack to a few runs: it finds what was changed, and stays put where nothing was."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardware_profiles.loader import validate_profile
from hardware_profiles.profile_file import read_profile_file
from hardware_profiles.schema import TrainerProfile
from planner.accuracy.training.predict import predict, question_of
from planner.accuracy.training.rows import read_training
from planner.accuracy.training.software import named_profile, named_software
from planner.accuracy.training.tuning import tune_trainer
from planner.cli.main import build_app
from planner.errors import InputError

RUNS = Path(__file__).parents[2] / "data" / "training" / "runs.csv"


def _runs(tmp_path: Path, factor: float) -> Path:
    """Write four runs that are `factor` times as slow as the shipped stack predicts."""
    with RUNS.open(encoding="utf-8") as handle:
        rows = [r for r in csv.DictReader(handle) if r["metric"] == "iteration_time_s"][:4]
    path = tmp_path / "mine.csv"
    _write(path, rows)
    stack = named_software("megatron-lm-2022")
    for cells, row in zip(rows, read_training(path).rows, strict=True):
        cells["value"] = str(predict(question_of(row, stack)).step_s * factor)
    _write(path, rows)
    return path


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _tune(runs: Path, output: Path) -> dict[str, object]:
    command = ["calibrate", "tune", "--training", str(runs), "--software", "megatron-lm-2022"]
    result = CliRunner().invoke(build_app(), [*command, "-o", str(output), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_slower_cluster_is_found(tmp_path: Path) -> None:
    found = _tune(_runs(tmp_path, 1.3), tmp_path / "slow.yaml")
    assert found["error_before_pct"] == pytest.approx(100.0 * (1.0 - 1.0 / 1.3), abs=2.0)
    assert float(str(found["error_after_pct"])) < 10.0
    profile = validate_profile(TrainerProfile, read_profile_file(tmp_path / "slow.yaml"))
    assert profile.name == "slow"
    assert profile.compute_scale.value > 1.1


def test_runs_as_predicted_move_nothing(tmp_path: Path) -> None:
    found = _tune(_runs(tmp_path, 1.0), tmp_path / "same.yaml")
    assert float(str(found["error_after_pct"])) < 1.0
    profile = validate_profile(TrainerProfile, read_profile_file(tmp_path / "same.yaml"))
    assert profile.compute_scale.value == pytest.approx(1.023, rel=0.02)


def test_no_usable_run_is_bad_input(tmp_path: Path) -> None:
    with RUNS.open(encoding="utf-8") as handle:
        row = next(csv.DictReader(handle))
    _write(tmp_path / "bad.csv", [row | {"gpu_type": "abacus"}])
    table = read_training(tmp_path / "bad.csv")
    with pytest.raises(InputError, match="no run with a step time"):
        tune_trainer(table, named_profile("megatron"), "mine", day=date(2026, 1, 1))
