"""Measured runs beside the cost model and the simulator: what is compared, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.accuracy.serving.second import measured_run, second_scores
from planner.cli._accuracy_simulated import simulated_table
from planner.cli.main import main

RUNS = Path(__file__).parents[1] / "data" / "serving" / "runs.csv"
LOGS = RUNS.parent / "logs" / "runs.csv"
HEADER = "gpu,framework,model,quantization,mode,tp,n_gpus,max_num_seqs,token_budget,source,log"


def write_log(folder: Path, slower: float = 1.0) -> Path:
    rows = [
        f"{0.2 * k:.3f},{600 + k},{100 + k % 9},{0.05 * slower:.6f},{1.1 * slower:.6f}" for k in range(60)
    ]
    (folder / "log.csv").write_text("arrival_s,input_tokens,output_tokens,ttft_s,e2e_s\n" + "\n".join(rows))
    path = folder / "runs.csv"
    path.write_text(HEADER + "\nh100,vllm,llama-3.1-8b,bf16,trace,1,1,128,2048,made,log.csv\n")
    return path


def test_a_log_is_replayed_and_compared(tmp_path: Path) -> None:
    (run,) = simulated_table(write_log(tmp_path))
    assert run.setup is not None
    assert run.setup.halves[0].max_num_seqs == 128
    assert run.setup.halves[0].token_budget == 2048
    assert measured_run(run.setup) == {"e2e": pytest.approx(1.1), "ttft": pytest.approx(0.05)}
    assert 0.0 < run.simulated["ttft"] < run.simulated["e2e"]
    scores = {score.metric: score for score in second_scores([run])}
    assert (scores["e2e"].statistic, scores["ttft"].statistic) == ("mean", "p90")
    assert scores["e2e"].simulated.bias == pytest.approx(100 * (run.simulated["e2e"] / 1.1 - 1), abs=0.1)
    assert scores["e2e"].model is not None


def test_rows_state_an_end_to_end_time_or_it_follows_from_their_steps(tmp_path: Path) -> None:
    header, *rows = RUNS.read_text(encoding="utf-8").splitlines()
    one_each = [next(r for r in rows if what in r) for what in (",8.0,8.0,,,1024.0", "8.0,4.0,,48.0,")]
    (tmp_path / "runs.csv").write_text("\n".join((header, *one_each)), encoding="utf-8")
    runs = [run for run in simulated_table(tmp_path / "runs.csv") if run.simulated]
    assert {run.row.mode for run in runs} == {"agg", "disagg"}
    for run in runs:
        assert run.setup is not None
        found = measured_run(run.setup)
        ttft, tpot = run.row.number("ttft_ms"), run.row.number("tpot_ms")
        assert ttft is not None
        assert tpot is not None
        expected = (ttft + tpot * (run.setup.lengths.mean_output - 1.0)) / 1e3
        assert found["e2e"] == pytest.approx(expected)


def test_the_command_tells_both(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_log(tmp_path))
    assert main(["accuracy", "--serving", path, "--simulate", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["num_runs"] == 1
    assert {score["metric"] for score in data["scores"]} == {"e2e", "ttft"}
    assert main(["accuracy", "--serving", path, "--simulate"]) == 0
    shown = capsys.readouterr()
    assert "made" in shown.out
    assert "1 runs simulated" in shown.err


def test_a_sample_has_runs_of_every_cell_and_the_same_figures() -> None:
    everything = {run.row.line: run for run in simulated_table(RUNS)}
    sample = [run for run in simulated_table(RUNS, sample=1) if run.setup is not None]
    cells = {(r.row.source, r.row.text("gpu"), r.row.text("framework"), r.row.mode) for r in sample}
    told = [run for run in everything.values() if run.setup is not None]
    assert len(sample) == len(cells) < len(told)
    assert cells == {(r.row.source, r.row.text("gpu"), r.row.text("framework"), r.row.mode) for r in told}
    for run in sample:
        assert run.simulated == everything[run.row.line].simulated


def test_a_sample_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "--serving", str(write_log(tmp_path)), "--sample", "1"]) == 0
    assert "1 runs simulated" in capsys.readouterr().err


def test_nothing_to_simulate_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "--simulate"]) == 2
    assert "nothing to simulate" in capsys.readouterr().err


def test_a_log_that_is_missing_or_says_too_little_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_log(tmp_path)
    (tmp_path / "log.csv").write_text("arrival_s,input_tokens,output_tokens\n0,10,10\n1,10,10\n")
    (run,) = simulated_table(path)
    assert "does not say when" in run.refusal
    (tmp_path / "log.csv").unlink()
    assert main(["accuracy", "--serving", str(path), "--simulate"]) == 2
    assert "log.csv" in capsys.readouterr().err


def test_without_the_simulator_logs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "--serving", str(write_log(tmp_path))]) == 0
    assert "logs of requests are not read here" in capsys.readouterr().err


def test_measured_logs_are_met_by_the_simulator() -> None:
    """Nothing was fitted to these logs: mean end-to-end time within 10 %, p90 of first tokens within 25 %."""
    runs = simulated_table(LOGS)
    assert runs
    for run in runs:
        assert run.setup is not None
        measured = measured_run(run.setup)
        assert run.simulated["e2e"] == pytest.approx(measured["e2e"], rel=0.10)
        assert run.simulated["ttft"] == pytest.approx(measured["ttft"], rel=0.25)
