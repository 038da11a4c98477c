"""Branches that do not add up to 1 are said, loudly where there are several."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.pipeline import Run, make_plan

HEAD = """\
kind: agents
nodes:
  r: {kind: router}
  a: {kind: tool, latency_s: 1}
  b: {kind: tool, latency_s: 2}
"""


@pytest.mark.parametrize(
    ("edges", "severity"),
    [
        ("[{from: r, to: a, probability: 0.5}, {from: r, to: b, probability: 0.5}]", None),
        ("[{from: r, to: a, probability: 0.5}, {from: r, to: b, probability: 0.4}]", "warning"),
        ("[{from: r, to: a, probability: 0.3}, r -> b]", "note"),
        ("[r -> a, {from: a, to: r, max_rounds: 3, probability: 0.5}, a -> b]", None),
    ],
)
def test_open_branches(edges: str, severity: str | None, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(HEAD + f"edges: {edges}\n")
    plan = make_plan(spec, Run())
    found = [d.severity for d in plan.diagnostics if d.code == "open-branches"]
    assert found == ([] if severity is None else [severity])


def test_bodies_are_looked_into(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    body = (
        "{nodes: {r: {kind: router}, a: {kind: tool, latency_s: 1}, b: {kind: tool, latency_s: 2}}, "
        "edges: [{from: r, to: a, probability: 0.2}, {from: r, to: b, probability: 0.3}]}"
    )
    spec.write_text(f"kind: agents\nnodes: {{outer: {{kind: graph, graph: {body}}}}}\n")
    messages = [d.message for d in make_plan(spec, Run()).diagnostics if d.code == "open-branches"]
    assert len(messages) == 1
    assert "'outer/r' add up to 0.5" in messages[0]


def _told(text: str, tmp_path: Path) -> list[str]:
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    return [d.message for d in make_plan(spec, Run()).diagnostics if d.code == "branch-bypassed"]


def test_a_node_that_runs_whether_or_not_its_branch_is_taken_is_told(tmp_path: Path) -> None:
    model = "models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.01, overhead_s: 0}}\n"
    nodes = (
        "nodes:\n  a: {model: m, output: 10}\n  check: {model: m, prompt: [{from: a}], output: 10}\n"
        "  fix: {model: m, prompt: [{from: a}, {from: check}], output: 10}\n"
    )
    edges = "edges: [{from: check, to: fix, probability: 0.3}, {from: check, to: end, probability: 0.7}]\n"
    told = _told("kind: agents\n" + model + nodes + edges, tmp_path)
    assert len(told) == 1
    assert "'fix' runs whether or not 'check' branches to it, since 'a'" in told[0]


def test_a_way_around_a_branch_is_no_slip(tmp_path: Path) -> None:
    tail = (
        "  z: {kind: tool, latency_s: 1}\n"
        "edges: [{from: r, to: a, probability: 0.6}, {from: r, to: z, probability: 0.4}, a -> z, a -> b]\n"
    )
    assert _told(HEAD + tail, tmp_path) == []
