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
