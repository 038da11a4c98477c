"""``newel plan``, ``explain`` and ``diff`` from the outside: what is written where, and exit codes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from planner.cli.main import main
from planner.plan.serialize import plan_from_bytes

TINY = ["--model", "llama-3.1-8b", "--cluster", "1xh100", "--isl", "500", "--osl", "100", "--fix", "tp=1"]


def test_without_out_the_plan_goes_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *TINY, "--rate", "1", "--objective", "min_devices"]) == 0
    captured = capsys.readouterr()
    plan = plan_from_bytes(captured.out.encode())
    assert plan.objective.value == 1.0
    assert "min_devices: 1 devices" in captured.err
    assert "\x1b" not in captured.err


def test_with_out_the_plan_goes_to_the_file_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert main(["plan", *TINY, "-o", str(out), "-q", "--timings"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "search" in captured.err
    assert os.listdir(tmp_path) == ["plan.json"]
    again = tmp_path / "again.json"
    assert main(["plan", *TINY, "-o", str(again), "-q"]) == 0
    assert again.read_bytes() == out.read_bytes()
    assert main(["diff", str(out), str(again)]) == 0
    assert capsys.readouterr().out == "no difference\n"
    assert main(["explain", str(out), "--quick", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "optimal"
    assert main(["verify", str(out)]) == 0


def test_flags_change_a_file_and_the_ir_can_be_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "model: llama-3.1-8b\ncluster: 1xh100\nworkload: {input_tokens: 500, output_tokens: 100}\n"
    )
    flags = ["--fix", "tp=1", "--osl", "{uniform: [50, 150]}", "--kv", "fp8,bf16", "--weights", "bf16"]
    assert (
        main(["plan", str(spec), *flags, "-q", "--json", "--print-ir-after", "frontend", "--verify-ir"]) == 0
    )
    captured = capsys.readouterr()
    assert 'kv_fmts: ["fp8", "bf16"]' in captured.err
    assert plan_from_bytes(captured.out.encode()).details["lengths"] == "distribution"


def test_infeasible_is_exit_3_with_a_plan_that_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    assert main(["plan", *TINY, "--rate", "1", "--tpot", "10us", "-o", str(out)]) == 3
    assert "nearest feasible change" in capsys.readouterr().err
    assert main(["verify", str(out), "-q"]) == 0
    assert main(["explain", str(out)]) == 0
    assert "no plan meets every limit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan"], "the spec is empty"),
        (["plan", "no.yaml"], "no.yaml: no such file"),
        (["plan", *TINY, "--ttft", "1 apple"], "--ttft (slo.ttft): unknown unit"),
        (["plan", *TINY, "--fix", "tp"], "--fix: not a pair"),
        (["plan", *TINY, "--rate", ""], "--rate: has no value"),
        (["plan", *TINY, "--weights", " "], "--weights: has no value"),
        (["plan", *TINY, "--rate", "{a: ["], "--rate: not valid YAML"),
        (["plan", *TINY, "--rate", "[1, 2]"], "--rate (workload.rate): expected a rate"),
        (["plan", *TINY, "--kind", "dancing"], "--kind: unknown kind"),
        (["plan", *TINY, "--print-ir-after", "lunch"], "unknown phase"),
        (["plan", *TINY, "--model", "x;reboot"], "--model: unknown model"),
        (["explain", "no.json"], "cannot read the plan"),
        (["diff", "no.json", "no.json"], "cannot read the plan"),
    ],
)
def test_wrong_input_is_exit_2_with_one_message_and_nothing_written(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    extra = ["-o", "plan.json"] if arguments[0] == "plan" else []
    assert main([*arguments, *extra]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert os.listdir(tmp_path) == []


def test_a_large_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "big.yaml"
    spec.write_bytes(b"a: [" + b"1, " * (10 * 2**20 // 3) + b"1]\n")
    assert main(["plan", str(spec)]) == 2
    assert "file is too large" in capsys.readouterr().err


def test_a_failed_write_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *TINY, "-q", "-o", str(tmp_path / "no" / "plan.json")]) == 2
    assert "Create the folder first" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
