"""Offline runs: how many requests they had, and that few of them do not fill a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.accuracy.serving.recipes import BENCHMARK_SEQUENCES
from planner.accuracy.serving.rows import read_rows
from planner.accuracy.serving.run import score_serving
from planner.accuracy.serving.setup import Setup, SetupReader, even_stages
from planner.cli._accuracy_serving import find_group, find_model

HEADER = "gpu,framework,model,mode,tp,pp,isl,osl,out_tok_s_total,num_requests,file"


def setup(folder: Path, line: str) -> Setup:
    path = folder / "runs.csv"
    path.write_text(f"{HEADER}\nh200,trtllm,llama-3.1-8b,offline_max,1,{line}\n", encoding="utf-8")
    return SetupReader(find_model=find_model, find_group=find_group).read(read_rows(path)[0])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,128,128,9,,docs/perf-overview.md", 30000),
        ("1,1000,1000,9,,docs/perf-overview.md", 3000),
        ("1,2048,2048,9,,docs/perf-overview.md", 1500),
        ("1,20000,2000,9,,docs/perf-overview.md", 1000),
        ("1,2048,2048,9,77,docs/perf-overview.md", 77),
        ("1,2048,2048,9,,elsewhere.md", 0),
    ],
)
def test_requests_are_those_of_the_recipe_unless_stated(tmp_path: Path, line: str, expected: int) -> None:
    found = setup(tmp_path, line)
    assert found.num_requests == expected
    assert found.halves[0].max_num_seqs == BENCHMARK_SEQUENCES


def test_recipes_of_a_source_say_what_ranks_wait_for_and_which_runs_draft(tmp_path: Path) -> None:
    header = "gpu,framework,version,model,quantization,mode,tp,attn_dp,ep,n_gpus,concurrency,isl,osl,ttft_ms"
    lines = [
        f"b200_sxm,{engine},{version},deepseek-ai/DeepSeek-V3,fp4,agg,1,8,8,8,128,1024,1024,9,{source}"
        for engine, version, source in (
            ("trtllm", "1.2.0rc6.post2", "inferencex-a"),
            ("sglang", "0.5.8", "inferencex-a"),
            ("trtllm", "1.2.0rc6.post2", "another"),
            ("trtllm", "1.2.0rc6.post3", "inferencex-a"),
        )
    ]
    (tmp_path / "runs.csv").write_text("\n".join((f"{header},source", *lines)) + "\n", encoding="utf-8")
    runs = score_serving(tmp_path / "runs.csv", find_model, find_group)
    setups = [run.setup for run in runs]
    assert [s.halves[0].prompt_wait_steps for s in setups if s is not None] == [60, 0, 0]
    assert "drafts tokens" in runs[3].refusal


def test_stages_are_even_and_the_first_hold_what_remains() -> None:
    assert even_stages(126, 8) == (16, 16, 16, 16, 16, 16, 15, 15)
    assert even_stages(80, 1) is None


def test_few_requests_do_not_fill_a_deep_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    lines = (f"h200,trtllm,llama-3.1-8b,offline_max,1,8,128,512,9,{n},x" for n in (16, 4000))
    path.write_text("\n".join((HEADER, *lines)), encoding="utf-8")
    few, many = (run.prediction for run in score_serving(path, find_model, find_group))
    assert few is not None
    assert many is not None
    assert many.values["throughput"] > 10.0 * few.values["throughput"]


def test_without_a_number_there_are_enough_to_show_the_highest_throughput(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    lines = (f"h200,trtllm,llama-3.1-8b,offline_max,1,1,500,500,9,{n},x" for n in ("", 30000))
    path.write_text("\n".join((HEADER, *lines)), encoding="utf-8")
    unsaid, long = (run.prediction for run in score_serving(path, find_model, find_group))
    assert unsaid is not None
    assert long is not None
    assert unsaid.values["throughput"] == pytest.approx(long.values["throughput"], rel=0.1)


@pytest.mark.parametrize(
    ("version", "model", "file", "expected"),
    [
        ("1.0", "qwen3-30b-a3b", "docs/perf-overview.md", (1, 4, 4)),
        ("1.0", "llama-3.1-8b", "docs/perf-overview.md", (4, 1, 1)),
        ("0.17", "qwen3-30b-a3b", "docs/perf-overview.md", (4, 1, 1)),
        ("1.0", "qwen3-30b-a3b", "elsewhere.md", (4, 1, 1)),
    ],
)
def test_experts_of_the_overview_have_attention_split_by_data(
    tmp_path: Path, version: str, model: str, file: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / "runs.csv"
    line = f"h200,trtllm,{version},{model},offline_max,4,1000,1000,9,{file}"
    path.write_text(
        f"gpu,framework,version,model,mode,tp,isl,osl,out_tok_s_total,file\n{line}\n", encoding="utf-8"
    )
    found = SetupReader(find_model=find_model, find_group=find_group).read(read_rows(path)[0])
    strategy = found.halves[0].strategy
    assert (strategy.tp, strategy.attention_dp, strategy.ep) == expected


def test_a_model_that_ran_on_one_device_fits_it(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(
        "gpu,framework,model,quantization,mode,tp,isl,osl,out_tok_s_total,file\n"
        "h100,trtllm,llama-3.1-70b,fp8,offline_max,1,1000,1000,9,docs/perf-overview.md\n",
        encoding="utf-8",
    )
    (run,) = score_serving(path, find_model, find_group)
    assert run.prediction is not None
