"""Published optima of public scheduling sets are reached and proved."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from planner.frontend.instance_text import InstanceSettings
from planner.frontend.instances import read_instance
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.verify.task_schedule import schedule_violations
from tests.benchmarks.scheduling import main

DATA = Path(__file__).resolve().parents[1] / "data" / "scheduling"


def _known() -> list[tuple[str, int, float]]:
    with (DATA / "known.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return [(r["instance"], int(r["processors"] or 4), float(r["upper_bound"])) for r in rows]


@pytest.mark.parametrize(("name", "processors", "optimum"), _known())
def test_optimum_is_proved(name: str, processors: int, optimum: float) -> None:
    path = next(p for p in DATA.rglob(f"{name}.*"))
    problem = read_instance(path, settings=InstanceSettings(num_processors=processors))
    answer = solve_schedule(problem, ScheduleOptions(time_limit_s=30, num_workers=2))
    assert (answer.status, answer.value, answer.bound) == ("optimal", optimum, optimum)
    assert answer.schedule is not None
    assert schedule_violations(problem, answer.schedule) == []
    assert answer.heft_value is None or answer.heft_value >= optimum


def test_command_reports_value_bound_and_known_best(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(DATA / "jsp"), "--time-limit", "10", "--workers", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    record = report["instances"][0]
    assert (record["instance"], record["value"], record["bound"], record["best_known"]) == (
        "ft06",
        55,
        55,
        55,
    )
    assert report["summary"]["proved"] == 1
