"""Tuning an engine's profile to runs of one's own, and planning with the file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from hardware_profiles.loader import load_software
from planner.accuracy.serving.run import score_serving
from planner.accuracy.serving.score import ScoredRun
from planner.accuracy.serving.tune import MAX_RUNS, TunedProfile, profile_text, told, tune_software
from planner.cli._accuracy_serving import find_group, find_model
from planner.errors import InputError

HEADER = "gpu,framework,model,mode,tp,concurrency,isl,osl,ttft_ms,tpot_ms"
LOADS = ((2, 500), (16, 500), (64, 2000))
SLOWER = 1.5


def write_runs(folder: Path, *lines: str) -> Path:
    path = folder / "mine.csv"
    path.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return path


def line(load: int, isl: int, ttft: float, tpot: float, framework: str = "vllm") -> str:
    return f"h100,{framework},llama-3.1-8b,agg,1,{load},{isl},100,{ttft},{tpot}"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TunedProfile]:
    """Runs of a machine on which everything takes half as long again."""
    folder = tmp_path_factory.mktemp("runs")
    ours = score_serving(write_runs(folder, *(line(c, n, 1, 1) for c, n in LOADS)), find_model, find_group)
    lines = [
        line(c, n, *(SLOWER * 1e3 * values[name] for name in ("ttft", "tpot")))
        for (c, n), values in zip(LOADS, map(_values, ours), strict=True)
    ]
    path = write_runs(folder, *lines)
    return path, tune_software(path, "vllm-0.33", find_model, find_group, day=date(2026, 1, 1))


def _values(run: ScoredRun) -> dict[str, float]:
    assert run.prediction is not None
    return run.prediction.values


def test_a_slower_machine_is_met_with_few_runs(slow: tuple[Path, TunedProfile]) -> None:
    _, found = slow
    assert found.tuned.error_before == pytest.approx(100.0 / 3.0, abs=0.5)
    assert found.tuned.error_after < 5.0
    assert found.tuned.error_left_out is not None
    assert found.tuned.error_left_out < 15.0
    assert found.profile.name == "vllm-0.33"
    assert found.profile.version == "0.33"
    assert found.profile.kernel_scale > 1.1
    assert any("% before" in text for text in told(found))


def test_the_file_is_read_back_and_answers_to_its_engine(
    slow: tuple[Path, TunedProfile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, found = slow
    file = tmp_path / "profile.yaml"
    file.write_text(profile_text(found.profile), encoding="utf-8")
    monkeypatch.setenv("NEWEL_PROFILES", str(file))
    for name in ("vllm", "vllm-0.33", "vLLM"):
        read = load_software(name)
        assert read.per_request_s.value == pytest.approx(found.profile.per_request_s.value, rel=1e-5)
        assert read.kernel_scale == pytest.approx(found.profile.kernel_scale, rel=1e-5)
    assert load_software("sglang").engine == "sglang"
    for run in score_serving(runs, find_model, find_group):
        values = _values(run)
        assert values["tpot"] * 1e3 == pytest.approx(run.row.number("tpot_ms"), rel=0.1)


def test_wrong_runs_are_refused(tmp_path: Path) -> None:
    day = date(2026, 1, 1)
    good = line(2, 500, 50, 10)
    many = write_runs(tmp_path, *[good] * (MAX_RUNS + 1))
    with pytest.raises(InputError, match="too many runs"):
        tune_software(many, "vllm", find_model, find_group, day=day)
    other = write_runs(tmp_path, line(2, 500, 50, 10, framework="sglang"))
    with pytest.raises(InputError, match="no run can be priced"):
        tune_software(other, "vllm", find_model, find_group, day=day)
    one = write_runs(tmp_path, good)
    with pytest.raises(InputError, match="unknown engine"):
        tune_software(one, "abacus-3", find_model, find_group, day=day)
