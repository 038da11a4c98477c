"""Training specs: what a right one means, and one helpful message for each wrong one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from planner.cli.flags import overrides
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.specs import load_spec, read_problem
from planner.ir.parser import parse_ir
from planner.ir.printer import print_ir
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem
from planner.ir.verifier import verify_ir

SPEC: dict[str, Any] = {
    "kind": "training",
    "model": "llama-3.1-8b",
    "cluster": "2x8xh100@ib400",
    "workload": {"global_batch": 128, "seq_len": 8192, "tokens": "15T"},
}


def _read(source: Any, diagnostics: Diagnostics | None = None) -> Problem[TrainingProblem]:
    return read_problem(load_spec(source), diagnostics or Diagnostics())


def _spec(**sections: Any) -> dict[str, Any]:
    return {key: value for key, value in {**SPEC, **sections}.items() if value is not None}


def test_a_spec_is_a_problem() -> None:
    problem = _read(_spec(fix={"tp": 4, "vpp": 2, "recompute": "full", "sp": True, "zero": 1}))
    assert verify_ir(problem) == []
    assert parse_ir(print_ir(problem)) == problem
    workload = problem.payload.workload
    assert (workload.global_batch, workload.seq_len, workload.num_tokens) == (128, 8192, 15e12)
    assert workload.tokens_per_step == 128 * 8192
    assert dict(problem.payload.choices.fixed) == {
        "tp": 4,
        "num_chunks": 2,
        "recompute": "full",
        "sequence_parallel": True,
        "zero": 1,
    }


@pytest.mark.parametrize(
    ("text", "tokens"), [("15T", 15e12), ("300B", 3e11), ("300G", 3e11), (2e9, 2e9), (5000000, 5e6)]
)
def test_tokens_of_a_run_may_be_written_as_people_do(text: object, tokens: float) -> None:
    workload = {**SPEC["workload"], "tokens": text}
    assert _read(_spec(workload=workload)).payload.workload.num_tokens == tokens


def test_flags_and_file_mean_the_same(tmp_path: Path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(
        "kind: training\nmodel: llama-3.1-8b\ncluster: 2x8xh100@ib400\n"
        "workload: {global_batch: 128, seq_len: 8192, tokens: 15T}\nfix: {tp: 2}\n",
        encoding="utf-8",
    )
    flags: dict[str, str | list[str]] = {
        "kind": "training",
        "model": "llama-3.1-8b",
        "cluster": "2x8xh100@ib400",
        "global-batch": "128",
        "seq": "8192",
        "tokens": "15T",
        "fix": ["tp=2"],
    }
    from_flags = read_problem(load_spec(None, overrides(flags, "training")), Diagnostics())
    assert from_flags.payload == _read(path).payload


def test_a_deadline_makes_money_count() -> None:
    diagnostics = Diagnostics()
    problem = _read(_spec(workload={**SPEC["workload"], "deadline": "60d"}), diagnostics)
    assert problem.objective.name == "min_cost"
    longest = problem.payload.workload.longest_step_s
    assert longest == pytest.approx(60 * 86400 * 128 * 8192 / 15e12)
    assert "objective-default" in [entry.code for entry in diagnostics.entries]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workload": {"seq_len": 8192}}, ["workload.global_batch", "missing"]),
        ({"workload": {"global_batch": 0, "seq_len": 8192}}, ["workload.global_batch"]),
        ({"workload": {"global_batch": 8, "seq_len": "x"}}, ["workload.seq_len"]),
        ({"workload": {**SPEC["workload"], "tokens": "many"}}, ["workload.tokens", "many"]),
        ({"workload": {"global_batch": 8, "seq_len": 64, "deadline": "3d"}}, ["deadline", "tokens"]),
        ({"fix": {"tpp": 3}}, ["fix", "tpp", "Did you mean"]),
        ({"fix": {"tp": 0}}, ["fix.tp"]),
        ({"fix": {"zero": 4}}, ["fix.zero"]),
        ({"fix": {"recompute": "some"}}, ["fix.recompute", "selective"]),
        ({"fix": {"sequence_parallel": 1}}, ["fix.sequence_parallel"]),
        ({"fix": {"v": 2, "vpp": 2}}, ["fix.vpp", "twice"]),
        ({"precision": "fp9"}, ["precision", "fp8"]),
        ({"schedule": ["1f2b"]}, ["schedule", "1f1b"]),
        ({"software": "tensorflow"}, ["software", "megatron-lm"]),
        ({"objective": "max_throughput"}, ["objective", "min_step_time"]),
        ({"memory_reserve": 3}, ["memory_reserve"]),
        ({"batch": 3}, ["batch", "unknown key"]),
    ],
)
def test_what_is_wrong_is_said(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InputError) as raised:
        _read(_spec(**change))
    for word in words:
        assert word in str(raised.value)
