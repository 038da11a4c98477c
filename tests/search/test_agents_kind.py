"""Planning of agent graphs from text to checked plan."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.errors import InputError
from planner.frontend.agent_graph_text import agent_graph_text
from planner.frontend.agent_imports import import_agent_text
from planner.ir.agent_graph import AgentProblem
from planner.pipeline import Run, check, make_plan
from planner.plan.schema import Plan
from planner.plan.serialize import plan_text
from planner.simulate.agent_plan import drawn_runs, expected_run
from planner.verify import problem_of

MOA = """\
kind: agents
name: mixture
goal: min_ttft
models:
  m: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.02, overhead_s: 0.05, slots: 16}
nodes:
  a: {model: m, prompt: [{static: 300}], output: 512}
  b: {model: m, prompt: [{static: 300}], output: 512}
  c: {model: m, prompt: [{static: 300}], output: 512}
  merge: {model: m, prompt: [{static: 300}, {from: a}, {from: b}, {from: c}], output: 512,
          partial_inputs: true}
"""


def _plan(text: str, tmp_path: Path) -> Plan:
    spec = tmp_path / "agents.yaml"
    spec.write_text(text)
    return make_plan(spec, Run())


def _payload(plan: Plan) -> AgentProblem:
    return problem_of(plan).payload


def test_staircase_of_the_published_setting_cuts_first_token_by_85_percent(tmp_path: Path) -> None:
    streaming = _plan(MOA, tmp_path)
    waiting = _plan(MOA.replace("partial_inputs: true", "join: all"), tmp_path)
    runs = [expected_run(_payload(p).graph, p.details) for p in (streaming, waiting)]
    assert 1 - runs[0].ttft_s / runs[1].ttft_s >= 0.85
    for plan, run in zip((streaming, waiting), runs, strict=True):
        assert plan.status == "optimal"
        assert run.ttft_s == pytest.approx(plan.predicted["ttft_s"].value, rel=0.01)
        assert run.latency_s == pytest.approx(plan.predicted["latency_s"].value, rel=0.01)
    kinds = {e["kind"] for e in streaming.details["edges"]}  # pyright: ignore
    assert kinds == {"staircase"}


def test_without_permission_nothing_that_changes_answers_is_used(tmp_path: Path) -> None:
    plan = _plan(MOA.replace("partial_inputs: true", "join: all"), tmp_path)
    assert {e["kind"] for e in plan.details["edges"]} <= {"barrier", "overlap"}  # pyright: ignore


def test_same_input_gives_the_same_bytes_and_passes_the_checker(tmp_path: Path) -> None:
    first, second = (plan_text(_plan(MOA, tmp_path)) for _ in range(2))
    assert first == second
    assert check(_plan(MOA, tmp_path)).passed


def test_models_are_chosen_within_the_budget(tmp_path: Path) -> None:
    # large: 1 s, 1 usd; small: 3 s, 0.1 usd; two calls in a row, budget 1.2: one of each, 4 s
    text = """\
kind: agents
budget_usd: 1.2
models:
  large: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0,
          usd_per_million_output: 10000, quality: 1}
  small: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.03, overhead_s: 0,
          usd_per_million_output: 1000, quality: 0}
nodes:
  x: {models: [large, small], output: 100}
  y: {models: [large, small], output: 100}
edges: [x -> y]
"""
    plan = _plan(text, tmp_path)
    assert plan.objective.value == pytest.approx(4.0)
    assert plan.predicted["cost_usd"].value == pytest.approx(1.1)
    cheap = _plan(text + "goal: min_cost\n", tmp_path)
    assert cheap.objective.value == pytest.approx(0.2)
    assert cheap.objective.bound == pytest.approx(0.2)
    good = _plan(text.replace("1.2", "3") + "min_quality: 0.5\n", tmp_path)
    assert good.predicted["cost_usd"].value == pytest.approx(2.0)


def test_slots_make_copies_wait(tmp_path: Path) -> None:
    text = """\
kind: agents
models: {m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 2}}
nodes: {w: {model: m, output: 100, copies: 5}}
"""
    plan = _plan(text, tmp_path)
    assert plan.objective.value == pytest.approx(3.0)
    assert plan.status == "optimal"


def test_any_join_waits_for_the_quickest(tmp_path: Path) -> None:
    text = """\
kind: agents
models: {m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 9}}
nodes:
  slow: {kind: tool, latency_s: 9}
  fast: {kind: tool, latency_s: 1}
  next: {model: m, output: 100, join: any}
edges: [slow -> next, fast -> next]
"""
    assert _plan(text, tmp_path).predicted["latency_s"].value == pytest.approx(2.0)


def test_items_start_their_consumers_one_by_one(tmp_path: Path) -> None:
    text = """\
kind: agents
models: {m: {prefill_tokens_per_s: 1e9, decode_s_per_token: 0.01, overhead_s: 0, slots: 9}}
nodes:
  list: {model: m, output: 400}
  each: {kind: tool, latency_s: 2, copies: 4}
edges: [{from: list, to: each, kinds: [barrier, items]}]
"""
    plan = _plan(text, tmp_path)
    # waiting would take 4 + 2; the last item is there at 4 as well, but the others are done by then
    starts = sorted(c["start_s"] for c in plan.details["calls"] if c["node"] == "each")  # pyright: ignore
    assert starts == pytest.approx([4.0, 4.0, 4.0, 4.0]) or starts == pytest.approx([1.0, 2.0, 3.0, 4.0])
    limited = _plan(text.replace("latency_s: 2,", "latency_s: 2, limit: 1,"), tmp_path)
    # one at a time: 4 + 4 * 2 when waiting; item-wise 1 + 4 * 2
    assert limited.objective.value == pytest.approx(9.0)


def test_impossible_deadline_says_what_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "late.yaml"
    spec.write_text(MOA.replace("goal: min_ttft", "deadline_s: 5"))
    out = tmp_path / "plan.json"
    assert main(["plan", str(spec), "-q", "-o", str(out)]) == 3
    report = json.loads(out.read_text())["infeasibility"]
    assert report["binding"][0]["name"] == "deadline_s"
    capsys.readouterr()
    reach = report["relaxed"]["deadline_s"]
    spec.write_text(MOA.replace("goal: min_ttft", f"deadline_s: {reach + 1e-6}"))
    assert main(["plan", str(spec), "-q", "-o", str(out)]) == 0


def test_graph_in_its_own_file_and_faults_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(MOA)
    assert _plan("kind: agents\ngraph: g.yaml\nsearch: {seed: 1}\n", tmp_path).status == "optimal"
    with pytest.raises(InputError, match="unknown model") as caught:
        _plan(MOA.replace("b: {model: m", "b: {model: n"), tmp_path)
    assert caught.value.line == 8


def test_five_hundred_calls_within_ten_seconds(tmp_path: Path) -> None:
    layers = [
        [{"type": "generator", "model": f"m{i}", "samples": 40} for i in range(6)],
        [{"type": "verifier", "model": "judge"}],
        [{"type": "fuser", "model": "m1", "samples": 20}],
        [{"type": "fuser", "model": "m2"}],
    ]
    graph = import_agent_text(json.dumps({"name": "big", "layers": layers}), file="big.json")
    began = time.monotonic()
    plan = _plan(agent_graph_text(graph), tmp_path)
    assert time.monotonic() - began < 10
    assert len(plan.details["calls"]) >= 500  # pyright: ignore
    assert plan.objective.gap is not None
    assert plan.objective.gap < 0.2


def test_simulate_command_compares_with_the_prediction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, out = tmp_path / "moa.yaml", tmp_path / "plan.json"
    spec.write_text(MOA.replace("output: 512}", "output: {mean: 512, sigma_log: 0.4}}"))
    assert main(["plan", str(spec), "-q", "-o", str(out)]) == 0
    capsys.readouterr()
    assert main(["simulate", str(out), "--requests", "20", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ttft_s"]["simulated"] == pytest.approx(report["ttft_s"]["predicted"], rel=0.01)
    assert report["latency_s"]["p50"] < report["latency_s"]["p99"]


def test_drawn_runs_spread_around_the_expected_one(tmp_path: Path) -> None:
    text = MOA.replace("output: 512}", "output: {mean: 512, sigma_log: 0.5}}")
    plan = _plan(text, tmp_path)
    graph = _payload(plan).graph
    runs = sorted(r.latency_s for r in drawn_runs(graph, plan.details, num_runs=40, seed=1))
    assert runs[0] < runs[-1]
    again = sorted(r.latency_s for r in drawn_runs(graph, plan.details, num_runs=40, seed=1))
    assert runs == again
