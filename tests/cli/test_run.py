"""``newel run``: the answer on stdout, the time line on stderr, outcomes as exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.plan.serialize import read_plan

SPEC = """\
kind: agents
goal: min_ttft
models:
  small: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.002, overhead_s: 0.005, slots: 8}
nodes:
  a: {model: small, prompt: [{text: one}, input], output: {mean: 20, limit: 20}}
  b: {model: small, prompt: [{text: two}, input], output: {mean: 20, limit: 20}}
  merge: {model: small, prompt: [input, {from: a}, {from: b}], output: {mean: 5, limit: 5}}
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "planner.runtime.fake_endpoint", "--decode-s", "0.002"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    spec, out = tmp_path / "spec.yaml", tmp_path / "plan.json"
    spec.write_text(SPEC)
    assert main(["plan", str(spec), "-o", str(out), "-q"]) == 0
    return out


def test_answer_time_line_and_record(
    plan: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints, question = tmp_path / "endpoints.yaml", tmp_path / "question.txt"
    endpoints.write_text(f"endpoints:\n  small: {{url: {url}}}\n")
    question.write_text("why?")
    capsys.readouterr()
    runs = tmp_path / "runs"
    command = ["run", str(plan), "--endpoints", str(endpoints), "--input", str(question)]
    assert main([*command, "--runs", str(runs)]) == 0
    shown = capsys.readouterr()
    assert shown.out == "w0 w1 w2 w3 w4 \n"
    assert "merge" in shown.err
    assert "first token" in shown.err
    assert "this program took" in shown.err
    record = json.loads(next(runs.iterdir()).read_text())
    assert record["kind"] == "newel-run"
    assert [c["output_tokens"] for c in record["calls"]] == [20, 20, 5]
    assert "answers" not in record
    assert main([*command, "--json", "-q"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["answers"] == {"merge": "w0 w1 w2 w3 w4 "}
    assert result["predicted"]["ttft_s"] == read_plan(plan).predicted["ttft_s"].value


def test_wrong_input_is_told_with_its_line(
    plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    for text, words in (
        ("endpoints:\n  small: {url: http://x/v1, concurency: 2}\n", "endpoints.yaml:2: endpoints.small.con"),
        ("endpoints: {}\n", "the model has no endpoint, and node 'a' needs it"),
        ("endpoints:\n  'gpt-4.1': {url: 7}\n", "endpoints.yaml:2: endpoints.gpt-4.1.url"),
        ("tools: {t: {python: 'os:no_such'}}\n", "cannot be loaded"),
        ("tools: {t: {command: [a], url: http://x}}\n", "one of python, command and url"),
        ("[1, 2]\n", "a mapping is expected"),
    ):
        endpoints.write_text(text)
        assert main(["run", str(plan), "-e", str(endpoints), "-t", "q"]) == 2
        assert words in capsys.readouterr().err
    assert main(["run", str(plan), "-t", "q"]) == 2
    assert main(["run", str(plan), "-e", str(endpoints)]) == 2
    assert main(["run", str(plan), "-t", "q", "--sync", "often"]) == 2
    assert main(["run", str(tmp_path / "none.json"), "-t", "q"]) == 2


def test_a_run_that_fails_is_exit_six(plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text("endpoints: {small: {url: 'http://127.0.0.1:9/v1', retries: 0}}\n")
    assert main(["run", str(plan), "-e", str(endpoints), "-t", "q"]) == 6
    shown = capsys.readouterr()
    assert "the run failed" in shown.err
    assert "cannot connect" in shown.err
    assert "Traceback" not in shown.err


def test_a_cycle_and_an_edge_to_nowhere_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    for edges, words in (
        ("[a -> b, b -> a]", "a cycle without a bound: a, b"),
        ("[a -> nowhere]", "the edge ends at an unknown node"),
        ("[{from: a, to: b, when: {matches: '('}}]", "not a regular expression"),
        ("[{from: a, to: b, when: {contains: x, equals: y}}]", "a condition is one test"),
        ("[{from: a, to: b, when: {at_least: many}}]", "not a number"),
        ("[a -> end]", None),
    ):
        spec.write_text(SPEC.replace("merge", "c") + f"edges: {edges}\n")
        code = main(["plan", str(spec), "-q", "-o", str(tmp_path / "p.json")])
        err = capsys.readouterr().err
        assert (code, words is None or words in err) == (0 if words is None else 2, True), err
    spec.write_text(SPEC.replace("merge", "end"))
    assert main(["plan", str(spec), "-q"]) == 2
    assert "stands for the graph's own ends" in capsys.readouterr().err
