"""Tables for people: every decision is shown, nothing in a name can play tricks on the terminal."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from planner.diagnostics import Diagnostics
from planner.ir.candidates import SearchResult
from planner.plan.diff import diff_plans
from planner.plan.schema import DeviceMemory, Plan, Replica
from planner.plan.serialize import plan_from_result
from planner.report.diff_view import diff_lines
from planner.report.figures import figure, percent
from planner.report.placement_map import placement_lines
from planner.report.plan_view import run_lengths, show_plan
from tests.plan.samples import INFEASIBLE, PROBLEM, RESULT


def _plan(result: SearchResult = RESULT, name: str = "a plan") -> Plan:
    diagnostics = Diagnostics()
    diagnostics.warn("w", "mind this")
    return plan_from_result(replace(PROBLEM, name=name), result, diagnostics, details={})


def _shown(plan: Plan) -> str:
    stream = StringIO()
    show_plan(plan, Console(file=stream, width=160, highlight=False, markup=False, emoji=False))
    return stream.getvalue()


def test_a_plan_shows_all_its_parts() -> None:
    text = _shown(_plan())
    shown = "a plan|optimal|max_throughput: 10 req/s|gap 0 %|tp2|fp8|token_budget=8192|300 ms|calibrated"
    shown += "|kv_cache 100 GB|77 %|n0   A0 A0 A1 A1|1 x tp4|10 % worse|mind this"
    for part in shown.split("|"):
        assert part in text


def test_runners_up_inside_the_interval_of_the_objective_cannot_be_told_apart() -> None:
    wide = replace(RESULT, objective=replace(RESULT.objective, low=8.0, high=12.0))
    text = _shown(_plan(wide))
    assert "90 % interval 8 to 12 req/s" in text
    assert "10 % worse, cannot be told apart" in text
    narrow = replace(RESULT, objective=replace(RESULT.objective, low=9.5, high=10.5))
    assert "told apart" not in _shown(_plan(narrow))


def test_an_infeasible_plan_says_what_binds_and_what_would_do() -> None:
    text = _shown(_plan(INFEASIBLE))
    assert "slo.tpot: too tight" in text
    assert "nearest feasible change: set slo.tpot to 8ms" in text


def test_names_cannot_play_tricks() -> None:
    text = _shown(_plan(name="[red]x[/red] :smile: \x1b[31m\nsecond line"))
    assert "[red]x[/red] :smile: ?[31m?second line" in text
    assert "\x1b" not in text


def test_differences_are_lines() -> None:
    slower = replace(RESULT, objective=replace(RESULT.objective, value=8.0))
    assert diff_lines(diff_plans(_plan(), _plan(slower))) == ["predictions", "  objective: 10 -> 8 (-20 %)"]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.03, "s", "30 ms"),
        (1.5, "s", "1.5 s"),
        (0.0, "s", "0 s"),
        (2e-7, "s", "0.2 us"),
        (141e9, "bytes", "141 GB"),
        (10_200.0, "W", "10.2 kW"),
        (12.345678, "USD/h", "12.35 USD/h"),
        (1234567.0, "tokens/s", "1,234,567 tokens/s"),
        (5400.0, "s", "90 min"),
        (36_000.0, "s", "10 h"),
        (864_000.0, "s", "10 days"),
        (3.5e6, "J", "3.5 MJ"),
        (4.2e14, "FLOP/s", "420 TFLOP/s"),
        (0.5, "1", "0.5"),
        (None, "s", "-"),
    ],
)
def test_figures(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_percentages() -> None:
    assert [percent(0.0), percent(0.0123), percent(-0.1, signed=True), percent(None)] == [
        "0 %",
        "1.23 %",
        "-10 %",
        "-",
    ]


def test_equal_nodes_are_folded() -> None:
    seats = [
        Replica(pool="aggregated-0", replica=r, devices=[f"n{r // 2}/{4 * (r % 2) + i}" for i in range(4)])
        for r in range(10)
    ]
    lines = placement_lines(_plan().model_copy(update={"placement": seats}))
    assert lines == [
        "A = aggregated-0",
        "n0 .. n4 (5 nodes)   A0 A0 A0 A0 A1 A1 A1 A1 .. A8 A8 A8 A8 A9 A9 A9 A9",
    ]


def test_equal_neighbours_are_counted() -> None:
    assert run_lengths([12, 12, 12, 11, 12]) == "3 x 12, 11, 12"
    assert run_lengths([]) == ""


def test_a_long_pipeline_shows_its_ends_and_its_fullest_stage() -> None:
    plan = _plan()
    used = [5e9, 4e9, 3e9, 9e9, 3e9, 3e9, 3e9, 7e9]
    stages = [
        DeviceMemory(stage=number, used_bytes=amount, capacity_bytes=10e9, parts=[])
        for number, amount in enumerate(used)
    ]
    pool = plan.pools[0].model_copy(update={"memory": stages})
    shown = _shown(plan.model_copy(update={"pools": [pool]}))
    assert [f"stage {number}" in shown for number in range(8)] == [n in (0, 3, 7) for n in range(8)]
    assert "5 more" in shown
