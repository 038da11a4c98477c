"""The training part of the scoreboard: fitted sources stand apart, and every source has its line."""

from __future__ import annotations

import shutil
from pathlib import Path

from planner.accuracy.training.board import find_table, training_section
from planner.accuracy.training.rows import read_training

RUNS = Path(__file__).parents[2] / "data" / "training" / "runs.csv"


def test_the_table_is_found_in_the_folder_and_beside_it(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    assert find_table(tmp_path / "kernels") is None
    shutil.copy(RUNS, tmp_path / "training.csv")
    assert find_table(tmp_path / "kernels") == find_table(tmp_path) == tmp_path / "training.csv"


def test_every_source_has_a_line_and_says_whether_it_was_fitted() -> None:
    text, data = training_section(RUNS)
    sources = {row.source for row in read_training(RUNS).rows}
    lines = [
        line for line in text.splitlines() if line.startswith("| ") and line.endswith(("| yes |", "| no |"))
    ]
    assert {line.split(" | ")[0].removeprefix("| ") for line in lines} == sources
    scores = data["scores"]
    assert isinstance(scores, list)
    fitted = {score["source"][:10]: score["fitted"] for score in scores}
    assert fitted["calculon-a"] is True
    assert any("Large Scale" in score["source"] and not score["fitted"] for score in scores)
