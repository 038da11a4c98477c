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
