"""Serving runs: reading, what they mean, how predictions of them are scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from planner.accuracy.kernel_work import CannotPriceError
from planner.accuracy.serving.names import engine_name, model_spellings
from planner.accuracy.serving.rows import ServingRow, read_rows
from planner.accuracy.serving.run import score_serving
from planner.accuracy.serving.score import (
    ScoredRun,
    choices,
    rank_correlation,
    refusals,
    score_runs,
    scores_as_data,
)
from planner.accuracy.serving.setup import SetupReader, lengths_of
from planner.cli._accuracy_serving import find_group, find_model
from planner.errors import InputError

RUNS = Path(__file__).parents[1] / "data" / "serving" / "runs.csv"
HEADER = "gpu,framework,model,quantization,mode,tp,n_gpus,concurrency,rate,batch,isl,osl,ttft_ms,tpot_ms,note"


@pytest.fixture(scope="module")
def runs() -> list[ScoredRun]:
    return score_serving(RUNS, find_model, find_group)


def table(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def read_one(folder: Path, line: str) -> ServingRow:
    return read_rows(table(folder, line))[0]


def reader() -> SetupReader:
    return SetupReader(find_model=find_model, find_group=find_group)


def test_every_row_is_priced_or_refused_with_a_reason(runs: list[ScoredRun]) -> None:
    data = scores_as_data(runs)
    told = sum(sum(reasons.values()) for reasons in refusals(runs).values())
    assert data["num_rows"] == len(RUNS.read_text(encoding="utf-8").splitlines()) - 1
    assert data["num_refused"] == told == sum(run.prediction is None for run in runs)
    assert all(run.refusal for run in runs if run.prediction is None)
    assert any("unclear" in reason for reason in refusals(runs)["inferencex-via-aic"])


def test_dense_decode_is_near_what_was_measured(runs: list[ScoredRun]) -> None:
    """Public closed-loop runs of Llama-3.1-70B FP8 on H100 (see the README beside the table)."""
    dense = [
        s
        for s in score_runs(run for run in runs if run.row.text("framework") == "vllm")
        if s.metric == "tpot"
    ]
    assert len(dense) == 1
    assert dense[0].model is not None
    assert dense[0].model.p50 < 10.0
    assert dense[0].roofline is not None
    assert dense[0].roofline.p50 > 3.0 * dense[0].model.p50


def test_blank_cells_are_unknown_and_wrong_ones_are_told(tmp_path: Path) -> None:
    row = read_one(tmp_path, "h100,vllm,llama-3.1-8b,,,1,,8,,,100,10,,5,")
    assert row.number("ttft_ms") is None
    assert row.mode == "agg"
    with pytest.raises(InputError, match="number"):
        read_rows(table(tmp_path, "h100,vllm,llama-3.1-8b,,,one,,8,,,100,10,,5,"))
    with pytest.raises(InputError, match="columns are missing"):
        read_rows(table(tmp_path, "1,2", header="a,b"))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("h100,vllm,no-such-model,,agg,1,,8,,,100,10,,5,", "no bundled config"),
        ("nogpu,vllm,llama-3.1-8b,,agg,1,,8,,,100,10,,5,", "no device profile"),
        ("h100,lmdeploy,llama-3.1-8b,,agg,1,,8,,,100,10,,5,", "no engine profile"),
        ("h100,vllm,llama-3.1-8b,,agg,1,,,,,100,10,,5,", "concurrency is not stated"),
        ("h100,vllm,llama-3.1-8b,,static_batch,1,,,,,100,10,,5,", "batch is not stated"),
        ("h100,vllm,llama-3.1-8b,,dance,1,,8,,,100,10,,5,", "unknown mode"),
        ("h100,vllm,llama-3.1-8b,fp13,agg,1,,8,,,100,10,,5,", "unknown quantisation"),
        ("h100,vllm,llama-3.1-8b,,agg,4,6,8,,,100,10,,5,", "no whole number of replicas"),
        ("h100,vllm,llama-3.1-8b,,disagg,1,,8,,,100,10,,5,", "workers is not stated"),
        ("h100,vllm,llama-3.1-8b,,agg,1,,8,,,100,10,,,", "nothing was measured"),
    ],
)
def test_what_cannot_be_priced_says_why(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(CannotPriceError, match=reason):
        reader().read(read_one(tmp_path, line))


def test_lengths_follow_the_note(tmp_path: Path) -> None:
    spread = read_one(tmp_path, 'h100,vllm,llama-3.1-8b,,agg,1,,8,,,1000,100,,5,"len~U[0.8,1.0]x nominal"')
    lengths = reader().read(spread).lengths
    assert lengths.mean_input == pytest.approx(900.0, rel=1e-3)
    assert lengths.mean_output == pytest.approx(90.0, rel=1e-2)
    inputs, outputs, weights = np.array(lengths.samples).T
    assert (inputs.min(), inputs.max()) == (pytest.approx(802, abs=2), pytest.approx(998, abs=2))
    assert abs(np.corrcoef(inputs, outputs)[0, 1]) < 0.1
    assert weights.sum() == pytest.approx(1.0)
    assert lengths_of(1000.0, 100.0, (1.0, 1.0)).samples == ((1000, 100, 1.0),)


def test_dense_replicas_and_expert_ranks(tmp_path: Path) -> None:
    header = HEADER + ",attn_dp,ep"
    dense, sparse = (
        reader().read(row)
        for row in read_rows(
            table(
                tmp_path,
                "h100,vllm,llama-3.1-8b,,agg,2,8,8,,,1000,100,,5,,4,",
                "h200,sglang,deepseek-r1,fp8,agg,1,8,8,,,1000,100,,5,,8,8",
                header=header,
            )
        )
    )
    assert (dense.halves[0].strategy.tp, dense.halves[0].replicas) == (2, 4)
    assert dense.num_devices == 8
    assert (sparse.halves[0].strategy.attention_dp, sparse.halves[0].strategy.ep) == (8, 8)
    assert sparse.halves[0].weight_fmt == "fp8_block"


def test_more_load_takes_longer(tmp_path: Path) -> None:
    lines = [f"h100,vllm,llama-3.1-8b,,agg,1,,{load},,,1000,100,9,5," for load in (2, 16, 64)]
    found = score_serving(table(tmp_path, *lines), find_model, find_group)
    tpot = [run.prediction.values["tpot"] for run in found if run.prediction is not None]
    assert tpot == sorted(tpot)
    assert len(tpot) == 3


def test_names() -> None:
    assert "qwen3-235b-a22b" in model_spellings("Qwen/Qwen3-235B-A22B-FP8")
    assert "llama-2-70b" in model_spellings("llama2-70b-99.9")
    assert "deepseek-r1" in model_spellings("DeepSeek-R1-0528")
    assert engine_name("TensorRT-LLM") == "trtllm"
    assert engine_name("vLLM") == "vllm"
    assert engine_name("other") is None


def test_rank_correlation_by_hand() -> None:
    up = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(up, up * up) == pytest.approx(1.0)
    assert rank_correlation(up, -up) == pytest.approx(-1.0)
    assert rank_correlation(up, np.array([1.0, 1.0, 2.0, 2.0])) == pytest.approx(0.8944, abs=1e-4)
    assert rank_correlation(up, np.ones(4)) == 0.0


def test_regret_is_what_the_wrong_choice_costs(runs: list[ScoredRun]) -> None:
    found = choices(runs)
    assert found
    assert all(choice.regret >= 0.0 for choice in found)
    assert all((choice.regret == 0.0) == (choice.chosen == choice.best) for choice in found)
