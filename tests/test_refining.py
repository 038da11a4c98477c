"""Plans with the simulator in the loop: what they promise, what they say, and when they are left alone."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest

from planner.cli.main import main
from planner.diagnostics import Diagnostics
from planner.errors import UnsupportedError
from planner.frontend.spec_tree import spec_from_mapping
from planner.frontend.specs import read_problem
from planner.ir.problem import Problem
from planner.pipeline import Run, solve
from planner.plan.schema import Plan
from planner.plan.serialize import plan_text, read_plan
from planner.refining import Refinement, Trial, at_fault, check_refinable, simulated, without_shapes
from planner.verify import problem_of, verify_plan
from tests.fleet_cases import CHAT, spec, stage

LENGTHS = {
    "input_tokens": {"lognormal": {"median": 600, "p90": 2000, "max": 6000}},
    "output_tokens": {"lognormal": {"median": 60, "p90": 200, "max": 800}},
}
FULL = {
    "model": "llama-3.2-1b",
    "cluster": "1x2xh100",
    "workload": LENGTHS,
    "slo": {"ttft": "90ms", "tpot": "6ms"},
    "modes": ["disaggregated"],
    "objective": "max_throughput",
}
EASY = {**FULL, "objective": "min_devices", "workload": {**LENGTHS, "rate": 5.0}}
TIGHT = {"workload": LENGTHS, "slo": {"ttft": "75ms", "tpot": "4ms"}, "rate": 240}
FLEET = spec({**CHAT, **TIGHT}, objective="min_devices")


def planned(what: dict[str, Any], *, refine: bool) -> Plan:
    asked = {**what, "search": {"refine": refine}}
    run = Run(diagnostics=Diagnostics())
    return solve(read_problem(spec_from_mapping(asked), run.diagnostics), run)


@cache
def full(*, refine: bool) -> Plan:
    return planned(FULL, refine=refine)


def trials(plan: Plan) -> list[dict[str, Any]]:
    return cast("Any", plan.details["refinement"])["trials"]


def codes(plan: Plan) -> set[str]:
    return {entry.code for entry in plan.diagnostics}


def test_a_plan_whose_limits_break_is_replaced_by_the_best_that_holds() -> None:
    first, refined = full(refine=False), full(refine=True)
    told = trials(refined)
    assert told[0]["objective"] == first.objective.value
    assert told[0]["models"]["plan"]["broken_limits"]["ttft"][0] > 0.09 * 1.02
    held = [t["objective"] for t in told if not t["models"]["plan"]["broken_limits"]]
    assert refined.objective.value == max(held)
    assert "refined" in codes(refined)
    problem = problem_of(refined)
    (report,) = simulated(refined, problem).values()
    assert report.verdict.broken == ()
    assert verify_plan(refined, problem).passed


def test_the_bound_of_the_first_search_still_holds() -> None:
    first, refined = full(refine=False), full(refine=True)
    assert refined.objective.bound == first.objective.bound
    assert refined.objective.value is not None
    assert first.objective.value is not None
    assert refined.objective.value < first.objective.value
    assert refined.status == "feasible"
    assert refined.objective.gap == pytest.approx(first.objective.value / refined.objective.value - 1.0)


def test_the_same_spec_gives_the_same_bytes() -> None:
    assert plan_text(planned(FULL, refine=True)) == plan_text(full(refine=True))


def test_a_plan_that_holds_is_left_alone() -> None:
    plain, refined = planned(EASY, refine=False), planned(EASY, refine=True)
    assert refined.pools == plain.pools
    assert refined.objective == plain.objective
    assert refined.status == plain.status == "optimal"
    assert "simulated" in codes(refined)
    assert len(trials(refined)) == 1
    assert "refinement" not in plain.details


def test_a_fleet_takes_more_devices_where_a_queue_is_longer_than_was_thought() -> None:
    plain, refined = planned(FLEET, refine=False), planned(FLEET, refine=True)
    assert plain.objective.value is not None
    assert refined.objective.value is not None
    assert refined.objective.value > plain.objective.value == refined.objective.bound
    assert trials(refined)[0]["models"]["chat"]["broken_limits"]["ttft"][0] > 0.075 * 1.02
    reports = simulated(refined, problem_of(refined))
    assert all(report.verdict.broken == () for report in reports.values())


def test_stages_with_stated_rates_are_not_said_to_have_been_simulated() -> None:
    only = planned(spec(stage("embed", 100, h100=100), objective="min_devices"), refine=True)
    assert "not-simulated" in codes(only)
    assert "simulated" not in codes(only)


def test_without_a_plan_that_holds_the_nearest_comes_with_a_warning() -> None:
    first = full(refine=False)
    lonely = Refinement(problem=problem_of(first), search=lambda _: None, diagnostics=Diagnostics())
    told = lonely.refined(first)
    assert told.pools == first.pools
    assert "refined-in-vain" in codes(told)
    assert cast("Any", told.details["refinement"])["holds"] is False


def test_what_serves_no_requests_cannot_be_refined() -> None:
    with pytest.raises(UnsupportedError, match="only served plans"):
        check_refinable(replace(problem_of(full(refine=False)), kind="training"))


def test_the_command_refines_and_simulate_agrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "spec.json").write_text(json.dumps(FULL), encoding="utf-8")
    for name, more in (("plain", []), ("refined", ["--refine"])):
        path = str(tmp_path / f"{name}.json")
        assert main(["plan", str(tmp_path / "spec.json"), "-o", path, "-q", *more]) == 0
    assert read_plan(tmp_path / "refined.json").pools == full(refine=True).pools
    capsys.readouterr()
    assert main(["simulate", str(tmp_path / "plain.json")]) == 0
    assert "the limit on ttft, 0.09 s, is broken" in capsys.readouterr().err
    assert main(["simulate", str(tmp_path / "refined.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken_limits"] == {}


def test_an_infeasible_problem_stays_infeasible(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text(json.dumps({**FULL, "slo": {"ttft": "1ms"}}), encoding="utf-8")
    out = str(tmp_path / "plan.json")
    assert main(["plan", str(tmp_path / "spec.json"), "-o", out, "-q", "--refine"]) == 3


def test_shapes_that_break_a_limit_are_rejected_and_the_next_best_taken() -> None:
    first = full(refine=False)
    case = problem_of(first)
    (prefill,) = [pool for pool in first.pools if pool.role == "prefill"]
    trial = Trial(plan=first, limits={"": case.payload.workload.slo}, reports=simulated(first, case))
    rejected = {model: tuple(shapes) for model, shapes in at_fault(trial).items()}
    # Late first tokens are the fault of who prefills, so decode pools stay as they may be.
    assert {shape.role for shape in rejected[""]} == {"prefill"}
    again = solve(without_shapes(case, rejected), Run(diagnostics=Diagnostics()))
    (other,) = [pool for pool in again.pools if pool.role == "prefill"]
    assert (other.strategy, other.limits["token_budget"]) != (
        prefill.strategy,
        prefill.limits["token_budget"],
    )
    assert again.objective.value is not None
    assert first.objective.value is not None
    assert again.objective.value <= first.objective.value


def test_what_is_found_without_a_shape_counts_if_it_is_better_than_what_tighter_limits_gave() -> None:
    first = full(refine=False)
    case = problem_of(first)

    def found(problem: Problem[Any]) -> Plan | None:
        if not problem.payload.choices.rejected:
            return None  # tightened limits find nothing here
        return solve(problem, Run(diagnostics=Diagnostics()))

    told = Refinement(problem=case, search=found, diagnostics=Diagnostics()).refined(first)
    assert len(trials(told)) > 1
    assert told.pools != first.pools
