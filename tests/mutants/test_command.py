from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan

from .test_structure import dense


@pytest.fixture
def plan() -> Plan:
    return dense()[0]


def verify(plan: Plan, folder: Path, *options: str) -> int:
    write_plan(folder / "plan.json", plan)
    return main(["verify", str(folder / "plan.json"), *options])


def test_a_good_plan_ends_with_zero(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(plan, tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] is True
    assert all(f["outcome"] == "passed" for f in found["findings"])


def test_a_bad_plan_ends_with_five_and_names_the_rule(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = plan.model_copy(update={"inputs": []})
    assert verify(bad, tmp_path, "--quiet") == 5
    assert "digests" in capsys.readouterr().err


def test_a_plan_without_its_problem_is_bad_input(plan: Plan, tmp_path: Path) -> None:
    assert verify(plan.model_copy(update={"problem": ""}), tmp_path) == 2
    assert verify(plan.model_copy(update={"problem": "newel-ir 1\nroot = 3\n"}), tmp_path) == 2
