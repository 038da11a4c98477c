"""``newel experts``: a map that SGLang reads, the skew beside it, bad files refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main


def written(folder: Path, data: object) -> str:
    path = folder / "loads.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return str(path)


def test_the_map_holds_every_expert_of_every_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loads = written(tmp_path, {"logical_count": [[80, 10, 5, 5], [1, 1, 1, 1]]})
    out = tmp_path / "map.json"
    assert main(["experts", loads, "--ranks", "2", "--redundant", "2", "-o", str(out), "--json"]) == 0
    rows = json.loads(out.read_text(encoding="utf-8"))["physical_to_logical_map"]
    assert [len(row) for row in rows] == [6, 6]
    assert all(set(row) == {0, 1, 2, 3} for row in rows)
    told = json.loads(capsys.readouterr().out)
    assert told["physical_to_logical_map"] == rows
    assert 1.0 <= told["skew"] < told["skew_in_order"]
    assert told["optimal_layers"] == 2


def test_recorded_steps_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    once = written(tmp_path, [[6, 2], [2, 2]])
    main(["experts", once, "--ranks", "2", "--json"])
    first = json.loads(capsys.readouterr().out)
    twice = written(tmp_path, {"logical_count": [[[4, 1], [1, 1]], [[2, 1], [1, 1]]]})
    main(["experts", twice, "--ranks", "2", "--json"])
    assert json.loads(capsys.readouterr().out) == first


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([[1, 2], [1]], "as many experts"),
        ({"counts": [1]}, "no loads"),
        ([1, -2], "0 or more"),
        ([[1, "x"]], "0 or more"),
        ([1, 2, 3], "evenly"),
    ],
)
def test_what_is_wrong_is_said(
    data: object, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["experts", written(tmp_path, data), "--ranks", "2"]) == 2
    assert words in capsys.readouterr().err
