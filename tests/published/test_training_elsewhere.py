"""Runs of stacks and devices that no constant was fitted to and that the scoreboard's table does not hold.

`tests/data/training/elsewhere.csv` states the file of every row; numbers are facts of these documents. The
recipes of MaxText are scaled from one base model (2048 wide, 16 heads, 16 layers) by a factor that its
documentation calls the parameter scale.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from planner.accuracy.training.predict import Prediction, predict, question_of
from planner.accuracy.training.rows import read_training

TABLE = Path(__file__).parents[1] / "data" / "training" / "elsewhere.csv"


@pytest.fixture(scope="module")
def runs() -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = defaultdict(list)
    for row in read_training(TABLE).rows:
        found[row.source.split("/")[1].split(":")[0] + " " + row.text("gpu_type")].append(
            predict(question_of(row))
        )
    return found


@pytest.mark.parametrize(
    ("name", "num_runs", "most_pct"),
    [("KempnerForge H200-141GB", 10, 10.0), ("maxtext TPU v5p", 5, 10.0), ("maxtext TPU v5e", 1, 10.0)],
)
def test_stacks_that_were_never_fitted_are_predicted(
    runs: dict[str, list[Prediction]], name: str, num_runs: int, most_pct: float
) -> None:
    errors = [100.0 * (run.step_s / (run.measured_s or 0.0) - 1.0) for run in runs[name]]
    assert len(errors) == num_runs
    assert float(np.abs(errors).mean()) <= most_pct, np.round(errors, 1)


def test_steps_grow_with_the_network_between_servers_of_four(runs: dict[str, list[Prediction]]) -> None:
    steps = [run.step_s for run in runs["KempnerForge H200-141GB"] if run.row.text("model") == "70b"]
    assert steps == sorted(steps)
    assert 1.03 < steps[-1] / steps[0] < 1.2  # measured: 15.32 s on 160 devices, 14.03 s on 32
