"""The training part of the scoreboard: fitted sources stand apart, and every source has its line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import cost_models
from planner.accuracy.scoreboard import write_training_section
from planner.accuracy.training.board import SECTION_TITLE, find_table, training_section
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


def test_the_section_is_written_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ACCURACY.json").write_text('{"lines": [], "training": {"old": 1}}', encoding="utf-8")
    served = "\n# Accuracy of served models\n\nkept\n"
    page = "# Kernels\n" + SECTION_TITLE + "\nold\n" + served
    (tmp_path / "ACCURACY.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(cost_models, "__file__", str(tmp_path / "__init__.py"))
    write_training_section(RUNS)
    text = (tmp_path / "ACCURACY.md").read_text(encoding="utf-8")
    assert text.startswith("# Kernels\n")
    assert text.endswith(served)
    assert text.count(SECTION_TITLE) == 1
    assert "\nold\n" not in text
    data = json.loads((tmp_path / "ACCURACY.json").read_text(encoding="utf-8"))
    assert data["lines"] == []
    assert {"summary", "scores", "groups"} <= set(data["training"])
