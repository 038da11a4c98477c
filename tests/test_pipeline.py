"""The spine on kinds made up for the test: phases in order, passes undone, nothing unchecked let through."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from planner import pipeline
from planner.diagnostics import Diagnostics
from planner.errors import UnknownNameError, VerificationError
from planner.ir.candidates import SearchResult
from planner.ir.problem import Problem
from planner.pipeline import Run
from planner.verify import Finding, VerificationReport
from tests.plan.samples import INFEASIBLE, PROBLEM, RESULT


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """A pass that renames the problem and marks results on the way back."""

    name: str

    def apply(self, problem: Problem[Any]) -> Problem[Any]:
        return replace(problem, name=f"{problem.name}+{self.name}")

    def invert(self, problem: Problem[Any], result: SearchResult) -> SearchResult:
        return replace(result, method=f"{result.method}-{self.name}({problem.name})")


class Registry(dict[str, Any]):
    """Stands in for a registry."""

    def get(self, name: str) -> Any:
        return self[name]


def _report(*findings: Finding) -> VerificationReport:
    return VerificationReport(findings=findings)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []

    def search(problem: Problem[Any], diagnostics: Diagnostics) -> SearchResult:
        names.append(problem.name)
        diagnostics.note("searched", "looked everywhere")
        return RESULT

    monkeypatch.setattr(pipeline, "SEARCHES", Registry(sample=search))
    monkeypatch.setattr(pipeline, "DETAILS", Registry(sample=lambda problem: {"fact": 1}))
    monkeypatch.setattr(pipeline, "verify_plan", lambda plan, problem: _report())
    return names


PLAIN = replace(PROBLEM, name="p")


def test_passes_run_in_order_and_are_undone_in_reverse(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "PASSES", (Rename(name="a"), Rename(name="b")))
    shown: list[tuple[str, str]] = []
    run = Run(print_after=["b"], show_ir=lambda phase, text: shown.append((phase, text)), verify_between=True)
    plan = pipeline.solve(PLAIN, run)
    assert seen == ["p+a+b"]
    assert plan.solver.method == "enumeration-b(p+a)-a(p)"
    assert plan.name == "p"
    assert [phase for phase, _ in shown] == ["b"]
    assert 'name: "p+a+b"' in shown[0][1]
    assert list(run.times_s) == ["a", "b", "search", "verify"]


def test_a_plan_states_details_remarks_and_no_time(seen: list[str]) -> None:
    plan = pipeline.solve(PLAIN, Run())
    assert plan.details["fact"] == 1
    assert [entry.code for entry in plan.diagnostics] == ["searched"]
    assert plan.solver.wall_time_s is None
    assert pipeline.solve(PLAIN, Run()) == plan
    timed = pipeline.solve(PLAIN, Run(record_time=True))
    assert timed.solver.wall_time_s is not None


def test_a_plan_that_fails_the_checker_is_no_plan(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Finding(rule="memory", outcome="failed", message="does not fit")
    monkeypatch.setattr(pipeline, "verify_plan", lambda plan, problem: _report(broken))
    with pytest.raises(VerificationError, match="memory: does not fit"):
        pipeline.solve(PLAIN, Run())


def test_a_broken_ir_is_a_bug(seen: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(Rename):
        def apply(self, problem: Problem[Any]) -> Problem[Any]:
            return replace(problem, name=3)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "PASSES", (Breaks(name="breaks"),))
    with pytest.raises(RuntimeError, match=r"broken after breaks: .*Problem\.name cannot be 3"):
        pipeline.solve(PLAIN, Run(verify_between=True))


def test_unknown_phases_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="unknown phase"):
        pipeline.read({"kind": "serving"}, Run(print_after=["nowhere"]))


def test_effects_are_found_by_solving_again(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    from planner.report.explanation import Variation

    def search(problem: Problem[Any], diagnostics: Diagnostics) -> SearchResult:
        if problem.name == "impossible":
            return INFEASIBLE
        factor = 1.5 if problem.name == "faster" else 1.0
        return replace(RESULT, objective=replace(RESULT.objective, value=10.0 * factor))

    explainer = SimpleNamespace(
        facts=lambda problem, plan: ["a fact"],
        bottlenecks=lambda problem, plan: [],
        variations=lambda problem, plan: [
            Variation(sort="resource", change="more", problem=replace(problem, name="faster")),
            Variation(sort="limit", change="ttft", problem=problem),
        ],
        fixed=lambda problem, choices: replace(problem, name="impossible"),
    )
    plan = pipeline.solve(PLAIN, Run())
    monkeypatch.setattr(pipeline, "SEARCHES", Registry(sample=search))
    monkeypatch.setattr(pipeline, "EXPLAINERS", Registry(sample=explainer))
    found = pipeline.explain(plan, Run(), why_not=[{"tp": 8}])
    assert [(e.change, e.better) for e in found.effects] == [("more", 0.5), ("ttft", 0.0), ("tp=8", None)]
    assert found.effects[2].reason == "slo.tpot: too tight"
    assert found.facts == ("a fact",)
    quick = pipeline.explain(plan, Run(), vary=False)
    assert quick.effects == ()

    from planner.report.explain_view import explanation_data, explanation_lines

    lines = explanation_lines(found)
    assert "  more: 50 % better (15 req/s)" in lines
    assert "  ttft: does not bind" in lines
    assert "  tp=8: not feasible. slo.tpot: too tight" in lines
    assert explanation_data(found)["facts"] == ["a fact"]
