from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main

DATA = Path(__file__).parents[1] / "data" / "cluster_imports"


def test_import_writes_a_file_that_a_cluster_is_read_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cluster.yaml"
    assert main(["import", "cluster", str(DATA / "k8s-nodes.json"), "-o", str(out)]) == 0
    assert "24 devices in 2 groups" in capsys.readouterr().err
    assert "device: gb200" in out.read_text(encoding="utf-8")


def test_json_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "cluster", str(DATA / "scontrol-show-node.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["groups"][0]["nodes"] == 2


def test_a_wrong_file_ends_with_two_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "cluster.yaml"
    path = tmp_path / "found.txt"
    path.write_text("\tGPU0\nGPU0\tX\n", encoding="utf-8")
    assert main(["import", "cluster", str(path), "-o", str(out)]) == 2
    assert "--device" in capsys.readouterr().err
    assert not out.exists()
