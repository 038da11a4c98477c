"""``newel import graph``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.frontend.agent_graphs import read_agent_graph

DATA = Path(__file__).resolve().parents[1] / "data" / "agent_graphs"


def test_writes_a_graph_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "graph.yaml"
    assert main(["import", "graph", str(DATA / "loop_agent_tools.graph.json"), "-o", str(out)]) == 0
    assert [n.name for n in read_agent_graph(out).nodes] == ["agent", "tools"]
    assert "no bound in the source" in capsys.readouterr().err


def test_json_summary_and_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    file = str(DATA / "autogen_digraph.json")
    assert main(["import", "graph", file, "--format", "autogen", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == 4
    assert main(["import", "graph", file]) == 0
    assert capsys.readouterr().out.startswith("kind: agents\n")


def test_bad_input_is_exit_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "graph", str(tmp_path / "missing.json")]) == 2
    assert main(["import", "graph", str(DATA / "dspy_trace.json"), "--format", "langgraf"]) == 2
    assert "langgraph" in capsys.readouterr().err
