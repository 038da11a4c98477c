"""What public benchmarks of highest throughput say of how they were run, where a table leaves it out.

A run of so many requests begins with an empty engine and ends with one that drains, and never holds more
sequences than it has requests: with a pipeline of eight stages 1,500 requests are fewer than 200 per
micro-batch, whatever the cache could hold.
"""

from __future__ import annotations

from planner.accuracy.serving.rows import ServingRow

BENCHMARK_SEQUENCES = 4096
"""Sequences of a rank over all its micro-batches that trtllm-bench allows (its bench/build/tuning.py)."""
_OVERVIEW = "perf-overview"
_INFERENCEX = "inferencex"
_BALANCED_STEPS = 60
_LONG = ((128, 4096), (1000, 2000), (1024, 2048), (2048, 2048), (5000, 500), (8192, 1024), (1024, 8192))
_LONGEST = ((20000, 2000), (32768, 1024), (1024, 32768))
_SHORTEST = ((128, 128),)
_NUM_USUAL, _NUM_LONG, _NUM_LONGEST, _NUM_SHORTEST = 3000, 1500, 1000, 30000


def published_requests(row: ServingRow) -> int:
    """Return the requests of a run of NVIDIA's performance overview, 0 for runs of any other file.

    Source: TensorRT-LLM, docs/source/performance/perf-overview.md, "Preparing a Dataset" (v0.20 to v1.2): a
    table of requests by input and output length, the same for all models and devices.
    """
    if _OVERVIEW not in row.text("file"):
        return 0
    lengths = (int(row.number("isl") or 0.0), int(row.number("osl") or 0.0))
    for known, num_requests in ((_LONG, _NUM_LONG), (_LONGEST, _NUM_LONGEST), (_SHORTEST, _NUM_SHORTEST)):
        if lengths in known:
            return num_requests
    return _NUM_USUAL


def splits_attention_by_data(row: ServingRow) -> bool:
    """Return whether a run of a model with experts had a rank of attention on every device, unstated.

    Source: the same pages of v1.0 and later, "Running the Benchmark": options for MoE models set
    enable_attention_dp, while the tables of v1.0 head their columns with the number of devices as TP.
    """
    unstated = row.number("attn_dp") is None and row.number("ep") is None
    return _OVERVIEW in row.text("file") and row.text("version").startswith("1.") and unstated


def most_overload(row: ServingRow, num_ranks: int) -> float:
    """Return by how much the highest load of a sweep exceeds the places of its decode workers, at most.

    Source: recipes of InferenceX for TensorRT-LLM through Dynamo (.github/configs/nvidia-master.yaml): 63
    clients of 3 workers with 16 places, 18 of 3 with 4; ranks of attention have 7 to 30 % more than places,
    and numbers of them that are no powers of two.
    """
    return 1.5 if _INFERENCEX in row.text("source") and num_ranks == 1 else 4.0 / 3.0


def has_recipe_per_load(row: ServingRow) -> bool:
    """Return whether decode workers were set up anew for every load of a sweep.

    Source: the same file: recipes of FP8 checkpoints end with the load that they are for, and allow for as
    many sequences as it needs (`ctx1_gen3_tep8_batch4_eplb0_mtp0_18`), those of NVFP4 serve all loads.
    """
    return _INFERENCEX in row.text("source") and row.text("quantization").lower() == "fp8"


def prompt_wait_steps(row: ServingRow) -> int:
    """Return for how many steps prompts waited until every attention rank had one, 0 where they did not.

    Source: scripts of InferenceX for TensorRT-LLM with attention split by data (benchmarks/single_node/
    dsr1_fp4_b200_trt.sh and its siblings), and TensorRT-LLM's own options for DeepSeek-R1:
    `attention_dp_config: {enable_balance: true, timeout_iters: 60}`.
    """
    return _BALANCED_STEPS if _INFERENCEX in row.text("source") and row.mode == "agg" else 0


def drafts_tokens(row: ServingRow) -> bool:
    """Return whether a run drafted tokens, which its table does not say, nor how many were accepted.

    Source: .github/configs/nvidia-master.yaml of InferenceX: the image 1.2.0rc6.post3 of TensorRT-LLM is that
    of `dsr1-fp4-b200-trt-mtp` alone (plain runs have post2).
    """
    drafting = row.text("version") == "1.2.0rc6.post3" and row.text("framework").lower().startswith("trt")
    return drafting and _INFERENCEX in row.text("source") and "deepseek" in row.text("model").lower()
