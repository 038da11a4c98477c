"""The examples of agent graphs run, against the bundled endpoint."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    command = [sys.executable, "-m", "planner.runtime.fake_endpoint", "--decode-s", "0.001"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


@pytest.mark.parametrize("name", ["10_mixture_of_agents", "11_tools_and_review"])
def test_agent_example_runs(
    name: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, plan, endpoints = EXAMPLES / name, tmp_path / "plan.json", tmp_path / "endpoints.yaml"
    assert main(["plan", str(folder / "spec.yaml"), "-q", "-o", str(plan)]) == 0
    endpoints.write_text((folder / "endpoints.yaml").read_text().replace("http://127.0.0.1:8001/v1", url))
    monkeypatch.syspath_prepend(str(folder))
    capsys.readouterr()
    command = ["run", str(plan), "-e", str(endpoints), "-i", str(folder / "question.txt")]
    assert main([*command, "--runs", str(tmp_path / "runs")]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("w0 ")
    assert "this program took" in shown.err
    again = ["plan", str(folder / "spec.yaml"), "--observed", str(tmp_path / "runs"), "-o", str(plan)]
    assert main(again) == 0
    assert "come from 1 observed runs" in capsys.readouterr().err
