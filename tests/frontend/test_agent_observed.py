"""Observed runs: what they showed replaces what was stated, and predictions come right."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cost_models.agents.lengths import mean_below
from planner.cli.main import main
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.agent_graphs import parse_agent_graph
from planner.frontend.agent_observed import with_observations
from planner.frontend.observed_runs import read_runs
from planner.ir.agent_graph import AgentGraph, LlmCall, ToolCall
from planner.plan.serialize import read_plan
from planner.runtime import Runtime, bind
from planner.runtime.fake_endpoint import FakeEndpoint, Pace
from planner.runtime.run_files import write_run

GRAPH = """\
kind: agents
name: g
models: {m: {prefill_tokens_per_s: 1000, decode_s_per_token: 1, overhead_s: 1, guessed: true}}
nodes:
  a: {model: m, prompt: [{static: 100}, input], output: {mean: 9, limit: 200}}
  t: {kind: tool, latency_s: 9}
  r: {kind: router}
  z: {model: m, prompt: [{static: 100}, {from: a}], output: 9}
edges: [a -> t, t -> r, {from: r, to: z, probability: 0.5}]
"""


def call(node: str, kind: str, **more: Any) -> dict[str, Any]:
    entry = {"node": node, "kind": kind, "status": "done", "reused": False, "requests": []}
    return {**entry, "start_s": 0.0, "end_s": 1.0, "output_tokens": 0, **more}


def request(prompt: int | None, output: int, first_s: float, per_token_s: float) -> dict[str, Any]:
    end_s = first_s + (output - 1) * per_token_s
    times = {"start_s": 0.0, "first_s": first_s, "end_s": end_s}
    chars = 4 * (prompt or 300)
    return {"model": "m", **times, "prompt_tokens": prompt, "prompt_chars": chars, "output_tokens": output}


def model_call(node: str, prompt: int, output: int) -> dict[str, Any]:
    """A call at 0.1 s + 500 tokens/s + 0.02 s a token."""
    made = request(prompt, output, 0.1 + prompt / 500 + 0.02, 0.02)
    return call(node, "llm", requests=[made], output_tokens=output)


def write(folder: Path, name: str, calls: list[dict[str, Any]], **more: Any) -> None:
    record = {"kind": "newel-run", "version": 1, "graph": "g", "status": "done", "calls": calls}
    record |= {"branches": {}, "predicted": {}, "ttft_s": 1.0, "latency_s": 2.0, **more}
    (folder / f"{name}.json").write_text(json.dumps(record))


def observed(folder: Path) -> tuple[AgentGraph, Diagnostics]:
    diagnostics = Diagnostics()
    seen, _ = read_runs(folder, "g")
    return with_observations(parse_agent_graph(GRAPH), seen, diagnostics), diagnostics


def test_lengths_speeds_and_branches_are_found_again(tmp_path: Path) -> None:
    for i, (length, taken) in enumerate(((50, 1), (100, 1), (200, 0))):
        calls = [model_call("a", 300, length), call("t@2", "tool", end_s=0.5)]
        calls += [model_call("z", 100 + length, 30)] if taken else []
        branches = {"r -> z": [taken, 1]}
        write(tmp_path, f"r{i}", calls, branches=branches, predicted={"ttft_s": 1.5, "latency_s": 1.0})
    graph, diagnostics = observed(tmp_path)
    model, a, t = graph.models[0], graph.node("a").work, graph.node("t").work
    assert model.decode_s_per_token == pytest.approx(0.02)
    assert model.overhead_s == pytest.approx(0.1, rel=1e-6)
    assert model.prefill_tokens_per_s == pytest.approx(500, rel=1e-6)
    assert not model.guessed
    assert isinstance(a, LlmCall)
    assert mean_below(a.output.mean, a.output.sigma_log, 200) == pytest.approx(350 / 3, rel=1e-6)
    assert a.output.limit == 200
    assert sum(p.tokens.mean for p in a.prompt if p.tokens) == pytest.approx(300)
    assert isinstance(t, ToolCall)
    assert t.latency.mean_s == pytest.approx(0.5)
    # two of three, and a tenth of an observation of the stated half
    assert graph.edges[-2].probability == pytest.approx((2 + 0.05) / 3.1)
    notes = [e.message for e in diagnostics.entries]
    assert any("predicted +50.0% on average" in note for note in notes)


def test_counts_that_are_missing_come_from_characters(tmp_path: Path) -> None:
    half = call("z", "llm", output_tokens=9, requests=[request(None, 9, 0.1 + 300 / 500 + 0.02, 0.02)])
    write(tmp_path, "r", [model_call("a", 100, 10), half])
    model = observed(tmp_path)[0].models[0]
    assert model.prefill_tokens_per_s == pytest.approx(500, rel=1e-6)


def test_records_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_runs(tmp_path / "none", "g")
    with pytest.raises(InputError, match="no finished run of graph 'g'"):
        read_runs(tmp_path, "g")
    for text, words in (
        ("{", "no JSON"),
        ("[]", "no record of a run"),
        ('{"kind": "newel-run", "version": 9}', "version of records"),
        ('{"kind": "newel-run", "version": 1, "graph": "g", "status": "done"}', "malformed"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(InputError, match=words):
            read_runs(tmp_path, "g")
    bad = model_call("a", 1, 1)
    write(tmp_path, "x", [{**bad, "output_tokens": float("nan")}])
    with pytest.raises(InputError, match="is no number"):
        read_runs(tmp_path, "g")


def test_one_run_is_enough_to_predict_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The endpoint is three times slower than stated; after one run the plan knows."""
    spec, runs, out = tmp_path / "spec.yaml", tmp_path / "runs", tmp_path / "plan.json"
    spec.write_text("""\
kind: agents
name: g
models: {m: {prefill_tokens_per_s: 9000, decode_s_per_token: 0.001, overhead_s: 0.01, slots: 9}}
nodes:
  a: {model: m, prompt: [input], output: {mean: 40, limit: 120}}
  b: {model: m, prompt: [input], output: {mean: 40, limit: 120}}
  z: {model: m, prompt: [{from: a}, {from: b}], output: {mean: 40, limit: 60}}
""")

    async def work() -> None:
        endpoint = await FakeEndpoint(pace=Pace(overhead_s=0.03, decode_s_per_token=0.003)).start()
        for known in (False, True):
            flags = ["--observed", str(runs)] if known else []
            assert main(["plan", str(spec), "-q", "-o", str(out), *flags]) == 0

            async with Runtime(read_plan(out), bind({"m": endpoint.url})) as runtime:
                result = await runtime.run("why?")
                write_run(runs, runtime.plan, result)
            apart = abs(result.predicted["latency_s"] / result.latency_s - 1)
            assert (apart < 0.2) is known
        await endpoint.stop()

    asyncio.run(work())
    assert main(["plan", str(spec), "--observed", str(tmp_path / "no"), "-o", str(out)]) == 2
    assert "no: the folder cannot be read" in capsys.readouterr().err
