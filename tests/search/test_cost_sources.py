"""A problem names who says how long operations take: search, checker and breakdown then all ask there."""

import importlib

import pytest

from planner.errors import InputError
from planner.pipeline import Run, check, explain, make_plan
from tests.cost_models.aiconfigurator.stub import StubTimes

SPEC = {
    "kind": "serving",
    "model": "llama-3.1-8b",
    "cluster": "2xh100",
    "workload": {"input_tokens": 1000, "output_tokens": 100},
    "slo": {"ttft": "1s", "tpot": "30ms"},
    "engine": ["trtllm"],
    "search": {"alternatives": 0},
}


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> StubTimes:
    found = StubTimes()
    module = importlib.import_module("cost_models.sources.aiconfigurator")
    monkeypatch.setattr(module, "PackageTimes", lambda **_: found)
    return found


def test_a_plan_with_other_costs_says_so_and_passes_the_checker(tables: StubTimes) -> None:
    run = Run()
    plan = make_plan({**SPEC, "costs": "aiconfigurator"}, run)
    assert plan.status == "optimal"
    assert {query.family for query, _ in tables.asked} >= {"gemm", "generation_attention", "all_reduce"}
    notes = [note.message for note in run.diagnostics.entries if note.code == "cost-source"]
    assert any("stub tables 0" in note for note in notes)
    tables.asked.clear()
    assert check(plan).passed
    assert tables.asked
    assert explain(plan, Run(), vary=False).bottlenecks


def test_other_costs_change_the_plan_and_the_own_ones_are_the_default(tables: StubTimes) -> None:
    own = make_plan(SPEC, Run())
    assert tables.asked == []
    other = make_plan({**SPEC, "costs": "aiconfigurator"}, Run())
    assert own.objective.value != other.objective.value
    assert make_plan({**SPEC, "costs": "newel"}, Run()).objective.value == own.objective.value


def test_an_unknown_source_is_refused_with_what_there_is() -> None:
    with pytest.raises(InputError, match=r"costs.*aiconfigurator.*newel"):
        make_plan({**SPEC, "costs": "aiconfigurater"}, Run())


def test_a_device_without_tables_is_refused(tables: StubTimes) -> None:
    with pytest.raises(InputError, match="no measured tables for mi300x"):
        make_plan({**SPEC, "cluster": "2xmi300x", "costs": "aiconfigurator"}, Run())
