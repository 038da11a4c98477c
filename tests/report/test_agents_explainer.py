"""Explanations of agent plans: critical path, value of streaming, why not otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.errors import InputError
from planner.pipeline import Run, explain, make_plan
from planner.plan.schema import Plan
from planner.report.agent_calls import critical_path, level_time_s, planned_calls
from planner.report.explain_view import explanation_lines
from planner.report.kinds.agents import EXPLAINER
from planner.verify import problem_of

SPEC = """\
kind: agents
name: g
goal: min_ttft
deadline_s: 60
models:
  small: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.02, overhead_s: 0.05, slots: 9, quality: 1}
  large: {prefill_tokens_per_s: 8000, decode_s_per_token: 0.04, overhead_s: 0.05, slots: 9, quality: 2}
nodes:
  a: {model: small, prompt: [{static: 300}], output: 512}
  b: {model: small, prompt: [{static: 300}], output: 512}
  merge:
    models: [small, large]
    prompt: [{static: 300}, {from: a}, {from: b}]
    output: 512
    partial_inputs: true
"""


def planned(tmp_path: Path, text: str) -> Plan:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    return make_plan(spec, Run())


def test_value_of_streaming_limits_and_models(tmp_path: Path) -> None:
    plan = planned(tmp_path, SPEC)
    found = explain(plan, Run(), why_not=[{"merge": "small"}, {"streaming": "lossless"}])
    effects = {e.change: e for e in found.effects}
    waiting = effects["every edge waits"]
    assert waiting.sort == "why_not"
    assert (waiting.value or 0) > 5 * (plan.objective.value or 1)
    assert effects["deadline 60 s"].better == pytest.approx(0, abs=1e-6)
    assert (effects["small writing twice as fast"].better or 0) > 0.2
    assert effects["merge=small"].value is not None
    assert effects["streaming=lossless"].value == pytest.approx(waiting.value, rel=0.2)
    text = "\n".join(explanation_lines(found))
    assert text.startswith("g (agents).\n")
    assert "merge starts on partial outputs of a, b" in text
    assert "Critical path:" in text


def test_choices_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    plan = planned(tmp_path, SPEC)
    problem = problem_of(plan)
    for choices, words in (
        ({"nod": "x"}, "unknown choice"),
        ({"merge": "huge"}, "unknown model of merge"),
        ({"streaming": "sometimes"}, "unknown word"),
    ):
        with pytest.raises(InputError, match=words):
            EXPLAINER.fixed(problem, choices)
    assert EXPLAINER.fixed(problem, {"streaming": False}) == EXPLAINER.fixed(problem, {"streaming": "off"})


def test_critical_path_and_levels_by_hand(tmp_path: Path) -> None:
    # quick 1 s -> after 5 s; slow 4 s -> last 1 s; levels: max(1, 4) + max(5, 1) + 1
    plan = planned(
        tmp_path,
        """\
kind: agents
nodes:
  quick: {kind: tool, latency_s: 1}
  slow: {kind: tool, latency_s: 4}
  after: {kind: tool, latency_s: 5}
  beside: {kind: tool, latency_s: 1}
  last: {kind: tool, latency_s: 1}
edges: [quick -> after, slow -> beside, after -> last, beside -> last]
""",
    )
    calls = planned_calls(plan)
    assert [c.name for c in critical_path(plan, calls)] == ["quick", "after", "last"]
    assert level_time_s(plan, calls) == pytest.approx(10)
    facts = EXPLAINER.facts(problem_of(plan), plan)
    assert any("level by level" in fact and "10 s" in fact for fact in facts)
    shares = EXPLAINER.bottlenecks(problem_of(plan), plan)[0].shares
    assert dict(shares) == pytest.approx({"quick": 1 / 7, "after": 5 / 7, "last": 1 / 7})


def test_the_command_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = tmp_path / "spec.yaml", tmp_path / "plan.json"
    spec.write_text(SPEC)
    assert main(["plan", str(spec), "-o", str(out)]) == 0
    assert "first token" in capsys.readouterr().err
    assert main(["explain", str(out), "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]
    assert main(["explain", str(out), "--quick", "--why-not", "merge=tiny"]) == 2
