"""``newel pack``: groups on stdout, simpler ways beside them, bad input refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main

RUN = ["--model", "llama-3.1-8b", "--ranks", "16", "--tokens-per-rank", "4096", "--flops", "400TFLOP/s"]


@pytest.fixture
def histogram(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.csv"
    path.write_text("length,count\n500,800\n2000,150\n9000,40\n40000,6\n60000,1\n", encoding="utf-8")
    return path


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["pack", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_holds_every_sequence_once(capsys: pytest.CaptureFixture[str], histogram: Path) -> None:
    arguments = [*RUN, "--lengths", str(histogram), "--global-batch", "200", "--batches", "2", "--json"]
    code, out, _ = _run(capsys, *arguments)
    assert code == 0
    for batch in json.loads(out)["batches"]:
        placed = [i for g in batch["groups"] for m in g["microbatches"] for i in m["sequences"]]
        assert sorted(placed) == list(range(200))
        assert batch["bound_s"] <= batch["time_s"] <= batch["uniform"]["time_s"] <= batch["padded"]["time_s"]
        assert batch["gap"] < 0.1
    assert _run(capsys, *arguments)[1] == out


def test_text(capsys: pytest.CaptureFixture[str], histogram: Path) -> None:
    code, out, err = _run(capsys, *RUN, "--lengths", str(histogram), "--global-batch", "100", "--seed", "3")
    assert code == 0
    assert out.startswith("batch 0: 100 sequences")
    assert "uniform" in out
    assert "s per batch at most" in err


def test_chunks_make_room(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "lengths"
    path.write_text("100000\n300\n", encoding="utf-8")
    base = [*RUN, "--lengths", str(path), "--global-batch", "2"]
    code, out, err = _run(capsys, *base)
    assert (code, out) == (2, "")
    assert "does not fit the largest group" in err
    code, out, _ = _run(capsys, *base, "--chunks", "--json")
    assert code == 0
    (batch,) = json.loads(out)["batches"]
    assert max(m["num_chunks"] for g in batch["groups"] for m in g["microbatches"]) > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--flops", "400"], "--flops"),
        (["--flops", "$(id)"], "--flops"),
        (["--near", "0B/s"], "--near"),
        (["--overhead", "-1ms"], "--overhead"),
        (["--ranks", "0"], "--ranks"),
        (["--time-limit", "nan"], "--time-limit"),
        (["--lengths", "no-such-file"], "no-such-file"),
        (["--model", "no-such-model"], "no-such-model"),
    ],
)
def test_bad_input(
    capsys: pytest.CaptureFixture[str], histogram: Path, arguments: list[str], message: str
) -> None:
    code, out, err = _run(capsys, *RUN, "--lengths", str(histogram), "--global-batch", "4", *arguments)
    assert (code, out) == (2, "")
    assert message in err
