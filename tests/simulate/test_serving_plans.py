"""Simulated plans: a second opinion that must be near the first where queues are short."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from planner.cli.main import main
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.spec_tree import Override
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.simulate.serving import SimulationOptions, simulate_plan
from planner.verify import problem_of

SPECS: dict[str, dict[str, Any]] = {
    "aggregated": {"workload": {"input_tokens": 1000, "output_tokens": 200, "rate": 3.0}},
    "disaggregated": {
        "workload": {"input_tokens": 4000, "output_tokens": 300, "rate": 4.0},
        "modes": ["disaggregated"],
    },
}


@cache
def found(name: str) -> Plan:
    spec = {
        "model": "llama-3.1-70b",
        "cluster": "2x8xh100",
        "slo": {"ttft": "1s", "tpot": "40ms"},
        "objective": "min_latency",
        **SPECS[name],
    }
    changes = [Override(path=(key,), value=value, origin=key) for key, value in spec.items()]
    return make_plan(None, Run(diagnostics=Diagnostics()), changes)


def figures(plan: Plan, **options: Any) -> dict[str, tuple[float, float | None]]:
    report = simulate_plan(plan, problem_of(plan), SimulationOptions(**options))
    return {name: (seen, claimed) for name, seen, claimed in report.figures}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_predictions_hold_where_queues_are_short(name: str) -> None:
    seen = figures(found(name), num_requests=4000)
    for key in ("tpot_s", "e2e_s"):
        simulated, predicted = seen[key]
        assert predicted is not None
        assert simulated == pytest.approx(predicted, rel=0.10), key
    simulated, predicted = seen["ttft_s"]
    assert predicted is not None
    assert simulated == pytest.approx(predicted, rel=0.25)


def test_the_same_seed_gives_the_same_figures_and_another_does_not() -> None:
    plan = found("aggregated")
    once, again, other = (figures(plan, num_requests=500, seed=s) for s in (1, 1, 2))
    assert once == again
    assert once != other


def test_more_load_is_slower() -> None:
    plan = found("aggregated")
    slow, fast = (figures(plan, num_requests=1500, rate_rps=r)["e2e_s"][0] for r in (6.0, 1.0))
    assert slow > fast


def test_a_minute_simulates_fifty_thousand_requests() -> None:
    plan = found("aggregated")
    start = process_time()
    simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=5000))
    assert process_time() - start < 6.0


def test_the_command_replays_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path / "plan.json", found("aggregated"))
    rows = "".join(f"{0.5 * i},{800 + i},{100 + i % 7}\n" for i in range(60))
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    arguments = ["simulate", str(tmp_path / "plan.json"), "--trace", str(tmp_path / "trace.csv"), "--json"]
    assert main(arguments) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["num_requests"] == 60
    assert report["rate_rps"] == pytest.approx(2.0, rel=0.05)
    assert report["figures"]["e2e_s"]["simulated"] > report["figures"]["ttft_s"]["simulated"] > 0


def test_what_cannot_be_simulated_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = found("aggregated").model_copy(update={"status": "infeasible", "pools": [], "placement": []})
    write_plan(tmp_path / "plan.json", none)
    assert main(["simulate", str(tmp_path / "plan.json")]) == 2
    assert "nothing to simulate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "a/b"}, "unknown engine"),
        ({"kv_dtype": "$(id)"}, "unknown number format"),
        ({"role": "drafting"}, "cannot be simulated"),
        ({"limits": {}}, "cannot be simulated"),
    ],
)
def test_a_pool_that_nobody_can_price_is_bad_input(change: dict[str, Any], message: str) -> None:
    plan = found("aggregated")
    odd = plan.model_copy(update={"pools": [plan.pools[0].model_copy(update=change)]})
    with pytest.raises(InputError, match=message):
        simulate_plan(odd, problem_of(plan), SimulationOptions(num_requests=50))
