"""Simulated plans: a second opinion that must be near the first where queues are short."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import process_time
from typing import Any

import pytest

from planner.cli.main import main
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.spec_tree import Override
from planner.frontend.traces import read_trace
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.simulate.serving import SimulationOptions, simulate_plan
from planner.simulate.serving_options import Failure, Straggler
from planner.verify import problem_of

SPECS: dict[str, dict[str, Any]] = {
    "aggregated": {
        "workload": {"input_tokens": 1000, "output_tokens": 200, "rate": 3.0},
        "modes": ["aggregated"],
    },
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


def test_the_record_of_a_run_is_whole_and_opens_as_a_trace(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.json", found("aggregated"))
    arguments = ["simulate", str(tmp_path / "plan.json"), "--requests", "200", "-o", str(tmp_path / "run")]
    assert main(arguments) == 0
    rows = (tmp_path / "run" / "requests.csv").read_text().splitlines()
    assert len(rows) == 201
    arrival, _, _, _, start, first, finish, *_ = rows[100].split(",")
    assert float(arrival) <= float(start) <= float(first) <= float(finish)
    events = json.loads((tmp_path / "run" / "trace.json").read_text())["traceEvents"]
    begun = [e["id"] for e in events if e["ph"] == "b"]
    assert sorted(begun) == sorted(e["id"] for e in events if e["ph"] == "e")
    assert main(arguments) == 2
    assert main([*arguments, "--force"]) == 0


def taking(plan: Plan, tokens: int) -> Plan:
    """Return a plan whose engines take longer requests than it was made for."""
    pools = [p.model_copy(update={"limits": {**p.limits, "max_model_len": tokens}}) for p in plan.pools]
    return plan.model_copy(update={"pools": pools})


def test_sessions_of_prompts_profit_from_their_prefixes(tmp_path: Path) -> None:
    plan = taking(found("aggregated"), 4096)
    lines = [
        {"timestamp": 400 * i, "input_length": 2100, "output_length": 20, "hash_ids": [7, 8, 9, 10]}
        for i in range(80)
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trace = read_trace(path, Diagnostics())
    bare = replace(trace, blocks=(), block_tokens=0)
    options = SimulationOptions(routing="prefix-aware")
    with_blocks = simulate_plan(plan, problem_of(plan), options, trace)
    without = simulate_plan(plan, problem_of(plan), options, bare)
    hits = dict(with_blocks.prefix_hits)
    assert hits["device"] == pytest.approx(79 / 80 * 2048 / 2100, rel=0.05)
    assert with_blocks.figures[0][1] < 0.5 * without.figures[0][1]
    assert without.prefix_hits == ()


def test_a_failure_and_a_straggler_cost_time_and_lose_nothing() -> None:
    plan = found("aggregated")
    pool = plan.pools[-1]
    calm = simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=400))
    failures = (Failure(pool=pool.name, replica=0, at_s=5.0, for_s=20.0),)
    hurt = simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=400, failures=failures))
    slow = (Straggler(pool=pool.name, replica=0, factor=2.0),)
    late = simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=400, stragglers=slow))
    e2e = {
        name: {f[0]: f[1] for f in r.figures}["e2e_s"]
        for name, r in zip("chl", (calm, hurt, late), strict=True)
    }
    assert e2e["h"] > e2e["c"]
    assert e2e["l"] > e2e["c"]
    assert hurt.num_requests == 400
    assert hurt.interruptions > 0


def test_energy_lies_between_idling_and_the_limit() -> None:
    plan = found("aggregated")
    report = simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=400))
    devices = sum(len(r.devices) for r in plan.placement)
    watts = report.energy_j / report.duration_s / devices
    assert 40 < watts < 700


@pytest.mark.parametrize(
    "option",
    [
        ["--fail", "pool"],
        ["--fail", "nowhere/0@5s+5s"],
        ["--fail", "{pool}/99@5s+5s"],
        ["--fail", "{pool}/0@5+5"],
        ["--slow", "{pool}/0=0.5"],
        ["--slow", "{pool}/0=nan"],
        ["--tier", "dram=50GB"],
        ["--tier", "dram=50GB@0GB/s"],
        ["--policy", "best"],
        ["--routing", "../x"],
    ],
)
def test_wrong_options_are_bad_input(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = found("aggregated")
    write_plan(tmp_path / "plan.json", plan)
    words = [word.replace("{pool}", plan.pools[0].name) for word in option]
    assert main(["simulate", str(tmp_path / "plan.json"), "--requests", "50", *words]) == 2
    assert "error:" in capsys.readouterr().err


@cache
def clients(mode: str) -> Plan:
    spec = {
        "model": "llama-3.2-1b",
        "cluster": "1x2xh100",
        "workload": {"input_tokens": 1000, "output_tokens": 200, "concurrency": 64},
        "objective": "max_throughput",
        "modes": [mode],
    }
    changes = [Override(path=(key,), value=value, origin=key) for key, value in spec.items()]
    return make_plan(None, Run(diagnostics=Diagnostics()), changes)


@pytest.mark.parametrize("mode", ["aggregated", "disaggregated"])
def test_a_fixed_number_of_clients_is_a_closed_loop(mode: str) -> None:
    plan = clients(mode)
    report = simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=3000))
    seen = {name: value for name, value, _ in report.figures}
    assert report.rate_rps is not None
    assert report.rate_rps * seen["e2e_s"] == pytest.approx(64.0, rel=0.03)  # Little's law
    assert seen["e2e_s"] == pytest.approx(plan.predicted["e2e_s"].value, rel=0.10)


def test_clients_cannot_be_sent_elsewhere_but_a_rate_can() -> None:
    plan = clients("aggregated")
    failures = (Failure(pool=plan.pools[0].name, replica=0, at_s=1.0, for_s=1.0),)
    with pytest.raises(InputError, match="under a rate"):
        simulate_plan(plan, problem_of(plan), SimulationOptions(num_requests=300, failures=failures))
    options = SimulationOptions(num_requests=300, failures=failures, rate_rps=20.0)
    assert simulate_plan(plan, problem_of(plan), options).num_requests == 300
