"""Plans that the search really finds: the checker agrees with them, and with no mutant of them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from hardware_profiles.loader import load_software
from planner.diagnostics import Diagnostics
from planner.frontend.spec_tree import Override
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.verify import problem_of, verify_plan
from planner.verify.rule import Case
from planner.verify.serving.view import pool_views

from .test_numbers import pool_scaled, scaled
from .test_structure import Mutation

SPECS: dict[str, dict[str, Any]] = {
    "aggregated": {
        "model": "llama-3.1-70b",
        "cluster": "8xh100",
        "workload": {"input_tokens": 1000, "output_tokens": 400, "rate": 2.0},
        "slo": {"ttft": "2s", "tpot": "60ms"},
    },
    "disaggregated": {
        "model": "llama-3.1-70b",
        "cluster": "2x8xh100",
        "workload": {"input_tokens": 4000, "output_tokens": 500},
        "slo": {"ttft": "1s", "tpot": "20ms", "percentile": 90},
        "objective": "max_throughput",
    },
    "experts": {
        "model": "mixtral-8x7b",
        "cluster": "8xh100",
        "workload": {"input_tokens": 4000, "output_tokens": 500, "rate": 2.0},
        "slo": {"ttft": "3s", "tpot": "30ms"},
        "objective": "min_devices",
    },
}


@pytest.fixture(autouse=True)
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """These plans rest on the shipped profiles, unlike the mutants made by hand."""
    monkeypatch.setattr("planner.verify.serving.view.load_software", load_software)


@cache
def found(name: str) -> Plan:
    changes = [Override(path=(key,), value=value, origin=key) for key, value in SPECS[name].items()]
    return make_plan(None, Run(diagnostics=Diagnostics()), changes)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_thorough_check_agrees(name: str) -> None:
    report = verify_plan(found(name), problem_of(found(name)), thorough=name == "aggregated")
    assert report.failed_rules == ()
    assert {f.outcome for f in report.findings} == {"passed"}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_two_derivations_of_the_time_per_token_agree(name: str) -> None:
    plan = found(name)
    for view in pool_views(Case(plan=plan, problem=problem_of(plan))):
        if view.pool.role == "prefill":
            continue
        own = view.load.at_rate(view.pool.predicted["request_rate_rps"].value)
        assert own is not None
        assert own.tpot_s == pytest.approx(view.pool.predicted["tpot_s"].value, rel=0.05)


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize(
    ("rule", "mutate"),
    [
        ("load", pool_scaled("request_rate_rps", 3.0)),
        ("load", pool_scaled("ttft_s", 0.3)),
        ("totals", scaled("output_tokens_per_s_per_device", 1.3)),
        ("service-levels", scaled("tpot_s", 9.0)),
    ],
    ids=["rate", "first token", "totals", "limit"],
)
def test_mutants_of_found_plans_are_caught(name: str, rule: str, mutate: Mutation) -> None:
    plan = found(name)
    if rule == "service-levels" and "percentile" in SPECS[name]["slo"]:
        mutate = scaled("tpot_p90_s", 9.0)
    assert rule in verify_plan(mutate(plan), problem_of(plan)).failed_rules


def test_a_plan_that_gives_away_half_of_its_rate_is_no_optimum() -> None:
    plan = found("disaggregated")
    half = plan.objective.model_copy(
        update={"value": (plan.objective.value or 0) / 3, "bound": (plan.objective.value or 0) / 3}
    )
    names = ("request_rate_rps", "output_tokens_per_s", "output_tokens_per_s_per_device")
    mutant = plan.model_copy(update={"objective": half, "alternatives": []})
    for name in names:
        mutant = scaled(name, 1 / 3)(mutant)
    mutant = scaled("usd_per_million_output_tokens", 3.0)(mutant)
    assert verify_plan(mutant, problem_of(plan)).failed_rules == ("optimality",)
