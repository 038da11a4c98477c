"""``newel schedule``: artefact on stdout, chart on stderr, errors and infeasible limits by exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.ir.pipeline_text import parse_schedule

PASSES = ["--forward", "2", "--backward-input", "2", "--backward-weight", "1"]


def _run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["schedule", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_example_reaches_the_lower_bound(capsys: pytest.CaptureFixture[str]) -> None:
    step = "--stages 8 --microbatches 24 --send 0.6 --memory 1.5 --json"
    passes = "--forward 18.5 --backward-input 18.1 --backward-weight 9.3"
    code, out, err = _run(capsys, *step.split(), *passes.split())
    answer = json.loads(out)
    assert code == 0
    assert answer["status"] == "optimal"
    assert answer["makespan_s"] == pytest.approx((7 * (18.5 + 0.6) + 24 * 45.9) / 1e3)
    assert max(answer["peak_activations"]) <= 12
    assert "optimal: makespan 1235.3 ms" in err


def test_named_schedule_and_torch_csv(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = _run(
        capsys, "--stages", "2", "--microbatches", "3", *PASSES, "--name", "1f1b", "--to", "torch-csv"
    )
    assert code == 0
    assert out == "0F0,0F1,0B0,0F2,0B1,0B2\n1F0,1B0,1F1,1B1,1F2,1B2\n"
    assert "|" in err


def test_ascii_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = _run(capsys, "--stages", "2", "--microbatches", "3", *PASSES)
    assert code == 0
    assert [line[:3] for line in out.splitlines()] == ["0 |", "1 |"]
    assert set(out) <= set("01 |FIWB.\n")
    _, text, _ = _run(capsys, "--stages", "2", "--microbatches", "3", *PASSES, "--to", "text")
    assert parse_schedule(text).makespan_s() == pytest.approx(0.017)


def test_unequal_stages_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    table = tmp_path / "stages.csv"
    rows = "forward,backward_input,backward_weight,activation\n2,2,1,1\n3,3,2,0.5\n"
    table.write_text(rows, encoding="utf-8")
    out_file = tmp_path / "schedule.json"
    step = ["--stages", "2", "--microbatches", "4", "--stage-times", str(table)]
    code, out, _ = _run(capsys, *step, "--json", "-o", str(out_file))
    assert (code, out) == (0, "")
    answer = json.loads(out_file.read_text(encoding="utf-8"))
    # The second stage cannot start before 2 and has 4 x 8 to do.
    assert answer["makespan_s"] == pytest.approx(0.034)
    assert answer["status"] == "optimal"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["schedule.json", "stages.csv"]


def test_lists_of_stage_times_and_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    step = ["--stages", "2", "--microbatches", "4", "--forward", "2,3", "--backward-input", "2,3"]
    code, out, _ = _run(capsys, *step, "--backward-weight", "1,2", "--memory", "1,0.5", "--json")
    answer = json.loads(out)
    assert code == 0
    # With room for one, the second device keeps no weight gradient for the end: the first device's last two
    # passes, 3, follow its last input gradient, which ends at 2 + 4 x 8 - 2.
    assert (answer["makespan_s"], answer["status"]) == (pytest.approx(0.035), "optimal")
    assert all(p <= m for p, m in zip(answer["peak_activations"], (2, 1), strict=True))


def test_partial_paths(capsys: pytest.CaptureFixture[str]) -> None:
    step = ["--stages", "4", "--microbatches", "6", *PASSES, "--time-limit", "2", "--json"]
    code, out, _ = _run(capsys, *step, "--path-length", "3")
    visits = [len({op["op"] for op in row if "F" in op["op"]}) for row in json.loads(out)["devices"]]
    assert (code, visits) == (0, [6, 3, 3, 6])
    code, out, _ = _run(capsys, *step, "--paths", "0,1,3;0,3")
    visits = [len({op["op"] for op in row if "F" in op["op"]}) for row in json.loads(out)["devices"]]
    assert (code, visits) == (0, [6, 3, 0, 6])


@pytest.mark.parametrize(
    ("extra", "least"), [(["--memory", "0.2"], "0.25"), (["--memory", "0.5", "--name", "1f1b"], "1")]
)
def test_infeasible_memory(capsys: pytest.CaptureFixture[str], extra: list[str], least: str) -> None:
    base = ["--stages", "4", "--microbatches", "6", *PASSES]
    code, out, err = _run(capsys, *base, *extra)
    assert (code, out) == (3, "")
    assert err.strip().endswith(f"--memory {least}")
    assert _run(capsys, *base, *extra, "--memory", least)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--forward", "1"], "pass times are missing"),
        ([*PASSES[:-1], "-1"], "--backward-weight"),
        ([*PASSES[:-1], "nan"], "--backward-weight"),
        ([*PASSES, "--send", "inf"], "--send"),
        ([*PASSES, "--memory", "-1"], "--memory"),
        ([*PASSES, "--weight-memory", "2"], "--weight-memory"),
        ([*PASSES, "--name", "1f1c"], "Did you mean '1f1b'"),
        ([*PASSES, "--to", "torchcsv"], "Did you mean 'torch-csv'"),
        ([*PASSES, "--objective", "speed"], "unknown objective"),
        ([*PASSES, "--time-unit", "h"], "unknown time unit"),
        ([*PASSES, "--placement", "w"], "unknown placement"),
        ([*PASSES, "--placement", "chain", "--chunks", "2"], "--chunks"),
        ([*PASSES, "--name", "interleaved-1f1b"], "two chunks"),
        ([*PASSES, "--name", "interleaved-1f1b", "--chunks", "2"], "multiple"),
        ([*PASSES, "--name", "dualpipe"], "even"),
        ([*PASSES, "--microbatches", "65536", "--chunks", "64"], "too many operations"),
        (["--stage-times", "no-such-file.csv"], "no-such-file.csv"),
        ([*PASSES, "--memory", "1,1"], "one limit per device"),
        ([*PASSES, "--memory", "1,0,1"], "positive"),
        ([*PASSES, "--memory", "nan"], "--memory"),
        ([*PASSES[:-1], "1,2"], "one time per stage"),
        ([*PASSES[:-1], "1e300"], "--backward-weight"),
        ([*PASSES[:-1], "$(id)"], "--backward-weight"),
        ([*PASSES, "--time-limit", "inf"], "--time-limit"),
        ([*PASSES, "--paths", "0,1,2;0,3"], "existing stages"),
        ([*PASSES, "--paths", "0,,2"], "list of stages"),
        ([*PASSES, "--paths", "0,1,2", "--path-length", "2"], "alone"),
        ([*PASSES, "--path-length", "4"], "--path-length"),
        ([*PASSES, "--path-length", "2", "--to", "torch-csv"], "all stages in order"),
        ([*PASSES, "-o", "/"], "cannot write"),
        (["--forward", "0", "--backward-input", "0", "--backward-weight", "0"], "not all zero"),
    ],
)
def test_bad_input(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = _run(capsys, "--stages", "3", "--microbatches", "5", *arguments)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("forward,backward_input\n1,2\n", 1),
        ("forward,backward_input,backward_weight\n1,2,x\n1,2,3\n", 2),
        ("forward,backward_input,backward_weight\n1,2,3\n1,2\n", 3),
        ("forward,backward_input,backward_weight\n1,2,3\n", None),
    ],
)
def test_bad_stage_times(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, line: int | None
) -> None:
    table = tmp_path / "stages.csv"
    table.write_text(text, encoding="utf-8")
    code, _, err = _run(capsys, "--stages", "2", "--microbatches", "2", "--stage-times", str(table))
    assert code == 2
    assert str(table) + (f":{line}" if line else "") in err
