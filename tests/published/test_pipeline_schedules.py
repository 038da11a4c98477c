"""Synthesised schedules are at least as good as published ones at the same memory limit."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.benchmarks.pipeline_reference import Step, compare, known_peaks, solve, step_of

DATA = Path(__file__).parents[1] / "data" / "pipeline_schedules" / "reference.csv"
ROWS = list(csv.DictReader(DATA.read_text(encoding="utf-8").splitlines()))
KNOWN: dict[Step, tuple[float, float]] = {}


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_row(number: int) -> None:
    row = ROWS[number]
    step = step_of(row, known_peaks(ROWS))
    assert isinstance(step, Step)
    if step not in KNOWN:
        KNOWN[step] = solve(step, seconds=60.0, effort=1e4, proof=0.03)
    value, bound = KNOWN[step]
    theirs, ours, sign = compare(row, step, value)
    assert sign <= 0, f"{row['schedule']}: {ours:.6g} against {theirs:g}"
    assert bound <= value
