"""A training plan's predicted step against its pipeline replayed operation by operation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from planner.cli.main import main
from planner.errors import InputError
from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.simulate.training import TOLERANCE, replay_plan
from planner.verify import problem_of

GPT = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_embd": 4096,
    "n_layer": 32,
    "n_head": 32,
    "n_positions": 2048,
    "vocab_size": 51200,
    "tie_word_embeddings": True,
}


def plan(**fix: Any) -> Plan:
    spec = {
        "kind": "training",
        "model": GPT,
        "cluster": "2x8xh100@ib400",
        "workload": {"global_batch": 128, "seq_len": 2048},
        "objective": "min_step_time",
        "fix": fix,
    }
    return make_plan(spec, Run())


@pytest.mark.parametrize(
    ("schedule", "chunks"), [("gpipe", 1), ("1f1b", 1), ("interleaved", 2), ("zb-h1", 1), ("zb-h2", 1)]
)
def test_the_predicted_step_is_the_replayed_one(schedule: str, chunks: int) -> None:
    found = plan(pp=4, tp=2, schedule=schedule, num_chunks=chunks, micro_batch=2)
    report = replay_plan(found, problem_of(found))
    assert abs(report.apart) <= TOLERANCE
    assert 0.0 < report.bubble < 0.35
    assert max(report.busy_s) <= report.pipeline_s


@pytest.mark.parametrize("latency", ["10 us", "10 ms", "60 ms"])
def test_pipelines_over_groups_and_slow_links_are_replayed_as_predicted(latency: str) -> None:
    groups = [
        {"name": "east", "device": "h100", "nodes": 1},
        {"name": "west", "device": "a100", "nodes": 1},
        {"name": "north", "device": "h100", "nodes": 1, "devices_per_node": 4},
    ]
    pairs = [("east", "west"), ("east", "north"), ("north", "west")]
    links = [{"groups": list(pair), "bandwidth": "5 GB/s", "latency": latency} for pair in pairs]
    spec = {
        "kind": "training",
        "model": GPT,
        "cluster": {"groups": groups, "group_links": links},
        "workload": {"global_batch": 128, "seq_len": 2048},
        "objective": "min_step_time",
        "fix": {"pp": 5},
    }
    found = make_plan(spec, Run())
    assert len(found.pools) > 1
    report = replay_plan(found, problem_of(found))
    assert abs(report.apart) <= 0.03


def test_a_job_without_a_pipeline_never_waits() -> None:
    found = plan(pp=1)
    report = replay_plan(found, problem_of(found))
    assert report.bubble == pytest.approx(0.0, abs=1e-9)
    assert report.step_s == pytest.approx(report.predicted_step_s, rel=1e-6)


def test_the_command_says_how_far_they_are_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path / "plan.json", plan(pp=2, schedule="1f1b"))
    assert main(["simulate", str(tmp_path / "plan.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["within_tolerance"] is True
    assert main(["simulate", str(tmp_path / "plan.json")]) == 0
    assert "within the tolerance" in capsys.readouterr().err


def test_a_plan_whose_layers_cannot_be_split_so_is_refused() -> None:
    found = plan(pp=2, schedule="1f1b")
    pool = found.pools[0]
    assert pool.training is not None
    odd = pool.training.model_copy(update={"layers_per_chunk": [40, -8]})
    broken = found.model_copy(update={"pools": [pool.model_copy(update={"training": odd})]})
    with pytest.raises(InputError, match="split"):
        replay_plan(broken, problem_of(found))
