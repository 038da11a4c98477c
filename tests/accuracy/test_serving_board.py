"""The serving section of the scoreboard."""

from __future__ import annotations

import json
from pathlib import Path

from cost_models.serving.uncertainty import first_token_sigma, interval_factor, step_sigma
from planner.accuracy.serving.board import SECTION_TITLE, board_data, board_page
from planner.accuracy.serving.run import score_serving
from planner.cli._accuracy_serving import find_group, find_model

RUNS = Path(__file__).parents[1] / "data" / "serving" / "runs.csv"


def test_the_page_is_made_of_the_data() -> None:
    data = board_data(score_serving(RUNS, find_model, find_group))
    page = board_page(json.loads(json.dumps(data)))
    assert page.startswith(SECTION_TITLE)
    assert str(data["split"]) in page
    assert "| dense | inferencex-via-aic | agg | tpot | 15 |" in page
    assert "rows refused" in page
    assert page.count("| trtllm-perf-overview |") >= 2


def test_intervals_grow_with_what_is_unknown() -> None:
    dense, sparse = step_sigma(0.05, sparse=False), step_sigma(0.05, sparse=True)
    assert 0.05 < dense < sparse
    assert step_sigma(0.5, sparse=False) > 0.5
    assert dense < first_token_sigma(dense, sparse=False) < first_token_sigma(dense, sparse=True)
    assert interval_factor(0.0) == 1.0
    assert interval_factor(dense, 0.5) < interval_factor(dense, 0.9) < interval_factor(sparse, 0.9)
