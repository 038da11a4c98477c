"""Many runs of agent graphs on shared models: queues that can be worked out by hand, priorities, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.errors import InputError
from planner.pipeline import Run, make_plan
from planner.simulate.agent_job import Order
from planner.simulate.agent_load import LoadOptions, Program, simulate_load
from planner.verify import problem_of

# an answer of n tokens takes n hundredths of a second; two slots
MODEL = "models: {m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 2}}\n"


def program(tmp_path: Path, name: str, text: str, rate: float) -> Program:
    spec = tmp_path / f"{name}.yaml"
    spec.write_text(f"kind: agents\nname: {name}\n{MODEL}{text}")
    plan = make_plan(spec, Run())
    graph = problem_of(plan).payload.graph
    return Program(name=name, graph=graph, details=plan.details, runs_per_s=rate)


def test_the_mean_wait_of_one_server_is_that_of_the_textbook(tmp_path: Path) -> None:
    one = program(tmp_path, "one", "nodes: {a: {kind: tool, latency_s: 1, limit: 1}}\n", 0.5)
    seen = simulate_load([one], LoadOptions(num_runs=20_000, seed=3))["one"]
    # M/D/1 at half load: service / 2 * 0.5 / (1 - 0.5)
    assert seen.mean_latency_s == pytest.approx(1.5, rel=0.03)
    assert seen.ended_per_s == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("order", ["priority", "fcfs"])
def test_the_graph_with_the_larger_priority_goes_first(order: Order, tmp_path: Path) -> None:
    text = "nodes: {a: {model: m, output: 100}, b: {model: m, output: 100}}\nedges: [a -> b]\n"
    high = program(tmp_path, "high", f"priority: 5\n{text}", 0.3)
    low = program(tmp_path, "low", text, 0.65)
    seen = simulate_load([low, high], LoadOptions(num_runs=800, order=order))
    if order == "fcfs":
        assert seen["high"].mean_latency_s == pytest.approx(seen["low"].mean_latency_s, rel=0.1)
    else:
        assert seen["high"].mean_latency_s < 3.5
        assert seen["low"].mean_latency_s > 2 * seen["high"].mean_latency_s


def test_least_service_first_lets_short_programs_pass_long_ones(tmp_path: Path) -> None:
    short = program(tmp_path, "short", "nodes: {a: {model: m, output: 20}}\n", 1.2)
    chain = ", ".join(f"n{i} -> n{i + 1}" for i in range(9))
    nodes = ", ".join(f"n{i}: {{model: m, output: 100}}" for i in range(10))
    long = program(tmp_path, "long", f"nodes: {{{nodes}}}\nedges: [{chain}]\n", 0.16)
    options = LoadOptions(num_runs=1500)
    fair = simulate_load([short, long], LoadOptions(num_runs=1500, order="program"))
    plain = simulate_load([short, long], options)
    assert fair["short"].mean_latency_s < 0.75 * plain["short"].mean_latency_s


def test_plans_that_disagree_on_a_model_are_refused(tmp_path: Path) -> None:
    one = program(tmp_path, "one", "nodes: {a: {model: m, output: 20}}\n", 1.0)
    spec = tmp_path / "two.yaml"
    spec.write_text(
        "kind: agents\nname: two\nmodels: {m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, "
        "overhead_s: 0, slots: 3}}\nnodes: {a: {model: m, output: 20}}\n"
    )
    plan = make_plan(spec, Run())
    graph = problem_of(plan).payload.graph
    two = Program(name="two", graph=graph, details=plan.details, runs_per_s=1.0)
    with pytest.raises(InputError, match="agree"):
        simulate_load([one, two], LoadOptions(num_runs=20))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, plan = tmp_path / "a.yaml", str(tmp_path / "a.json")
    spec.write_text(f"kind: agents\nname: a\n{MODEL}nodes: {{a: {{model: m, output: 100}}}}\n")
    assert main(["plan", str(spec), "-o", plan]) == 0
    capsys.readouterr()
    assert main(["simulate", plan, "--rate", "0.5", "--requests", "50", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["latency_s"]["simulated"] >= 1.0
    beside = str(tmp_path / "b.json")
    text = Path(plan).read_text(encoding="utf-8")
    Path(beside).write_text(text, encoding="utf-8")
    assert main(["simulate", plan, "--rate", "0.5", "--beside", f"{beside}@0.5", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"a", beside}
    for wrong in (["--beside", beside], ["--policy", "magic"], ["--fail", "x/0@1s+1s"], ["--beside", "b@-1"]):
        assert main(["simulate", plan, "--rate", "0.5", *wrong]) == 2
