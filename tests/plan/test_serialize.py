"""Plans to bytes and back: nothing lost, the same bytes every time, nothing half-written."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError, NothingFoundError
from planner.ir.parser import parse_ir
from planner.plan.diff import diff_plans
from planner.plan.files import write_text
from planner.plan.migrate import MIGRATIONS, migrated
from planner.plan.schema import SCHEMA_VERSION, Plan
from planner.plan.serialize import plan_from_bytes, plan_from_result, plan_text, read_plan, write_plan

from .samples import INFEASIBLE, PROBLEM, RESULT

GOLDEN = Path(__file__).parents[1] / "golden" / "plan_schema.json"


def _plan(result: Any = RESULT) -> Plan:
    diagnostics = Diagnostics()
    diagnostics.note("a-code", "a remark")
    return plan_from_result(PROBLEM, result, diagnostics, details={"b": 1, "a": "x"})


def test_a_plan_survives_its_file_and_carries_its_problem(tmp_path: Path) -> None:
    plan = _plan()
    write_plan(tmp_path / "plan.json", plan)
    back = read_plan(tmp_path / "plan.json")
    assert back == plan
    assert parse_ir(back.problem) == PROBLEM
    assert back.pools[0].strategy.tp == 2
    assert back.pools[0].memory[0].used_bytes == 8e9 + 1e11
    assert back.solver.seed == 7
    assert back.predicted["ttft_s"].provenance == "calibrated"
    assert sorted(os.listdir(tmp_path)) == ["plan.json"]


def test_bytes_depend_on_the_plan_alone() -> None:
    shuffled = replace(RESULT, predicted=RESULT.predicted[::-1])
    assert plan_text(_plan(shuffled)) == plan_text(_plan())
    assert 'wall_time_s": null' in plan_text(_plan())


def test_infeasible_is_an_answer_with_reasons() -> None:
    plan = _plan(INFEASIBLE)
    assert plan.status == "infeasible"
    assert plan.infeasibility is not None
    assert plan.infeasibility.relaxed == {"slo.tpot": "8ms"}


def test_nothing_found_is_no_plan() -> None:
    with pytest.raises(NothingFoundError, match=r"within 60 s.*--time-limit"):
        _plan(replace(INFEASIBLE, status="nothing_found", infeasibility=None))


def test_the_schema_is_as_published() -> None:
    text = json.dumps(Plan.model_json_schema(), indent=2) + "\n"
    if os.environ.get("NEWEL_UPDATE_GOLDEN"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


@pytest.mark.parametrize("result", [RESULT, INFEASIBLE])
def test_plans_meet_the_published_schema(result: Any) -> None:
    jsonschema.validate(json.loads(plan_text(_plan(result))), json.loads(GOLDEN.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no JSON"),
        (b"\xff", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "states no schema version"),
        (b'{"schema_version": "99.0"}', "made by a newer newel"),
        (b'{"schema_version": "0.1"}', "Plan again from the spec"),
        (b'{"schema_version": "1.0", "kind": "serving"}', "this is no valid plan: Field required"),
        (b'{"schema_version": "1.0", "surprise": 1}', "no valid plan"),
    ],
)
def test_what_is_no_plan_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(InputError) as caught:
        plan_from_bytes(data, file="p.json")
    assert said in str(caught.value)
    assert str(caught.value).startswith("p.json")


def test_older_versions_are_lifted_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = {
        "0.8": lambda raw: {**raw, "schema_version": "0.9", "first": True},
        "0.9": lambda raw: {**raw, "schema_version": SCHEMA_VERSION, "second": raw["first"]},
    }
    monkeypatch.setattr("planner.plan.migrate.MIGRATIONS", steps)
    assert migrated({"schema_version": "0.8"}) == {
        "schema_version": SCHEMA_VERSION,
        "first": True,
        "second": True,
    }


def test_a_migration_that_does_not_move_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("planner.plan.migrate.MIGRATIONS", {"0.9": lambda raw: raw})
    with pytest.raises(InputError, match="another version"):
        migrated({"schema_version": "0.9"})
    assert SCHEMA_VERSION not in MIGRATIONS


def test_failed_writes_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Create the folder first"):
        write_text(tmp_path / "no" / "plan.json", "x")
    with pytest.raises(InputError, match="is a directory"):
        write_text(tmp_path, "x")
    with pytest.raises(InputError, match="cannot be written"):
        write_text(tmp_path / ("n" * 250), "x")
    assert os.listdir(tmp_path) == []
    write_text(Path(os.devnull), "x")


def test_diff_names_decisions_moves_and_predictions() -> None:
    before = _plan()
    assert diff_plans(before, before).is_empty
    pool = replace(RESULT.pools[0], degrees=(("tp", 4),), replicas=1)
    placement = (replace(RESULT.placement[0], devices=("n1/0", "n1/1", "n1/2", "n1/3")),)
    objective = replace(RESULT.objective, value=12.0)
    found = diff_plans(
        before, _plan(replace(RESULT, pools=(pool,), placement=placement, objective=objective))
    )
    assert {(c.what, c.before, c.after) for c in found.decisions} == {
        ("aggregated-0.replicas", 2, 1),
        ("aggregated-0.tp", 2, 4),
    }
    assert [c.what for c in found.moves] == ["aggregated-0[0]", "aggregated-0[1]"]
    assert [(c.what, c.relative) for c in found.predictions] == [("objective", pytest.approx(0.2))]
    assert found.inputs == ()
    gone = diff_plans(before, _plan(INFEASIBLE))
    assert ("aggregated-0.tp", 2, None) in [(c.what, c.before, c.after) for c in gone.decisions]
