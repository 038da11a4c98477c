"""Flags of ``kind: serving``."""

from __future__ import annotations

from planner.cli.flags import Flag

FLAGS = (
    Flag(name="model", keys=("model",), help="config.json, its directory, or a bundled name.", form="text"),
    Flag(name="cluster", keys=("cluster",), help="Cluster file or shorthand: 2x8xh100@ib400.", form="text"),
    Flag(name="isl", keys=("workload", "input_tokens"), help="Prompt length, tokens, or a distribution."),
    Flag(name="osl", keys=("workload", "output_tokens"), help="Output length, tokens, or a distribution."),
    Flag(name="lengths", keys=("workload", "lengths"), help="Mixture of lengths, as in a spec."),
    Flag(name="trace", keys=("workload", "trace"), help="Trace of arrivals and lengths.", form="text"),
    Flag(name="rate", keys=("workload", "rate"), help="Requests per second."),
    Flag(name="concurrency", keys=("workload", "concurrency"), help="Requests in flight (closed loop)."),
    Flag(name="prefix-hit", keys=("workload", "prefix_hit"), help="Share of prompt tokens found in cache."),
    Flag(name="burstiness", keys=("workload", "burstiness"), help="Squared variation of gaps (1: Poisson)."),
    Flag(name="ttft", keys=("slo", "ttft"), help="Limit on the time to the first token, e.g. 1s."),
    Flag(name="tpot", keys=("slo", "tpot"), help="Limit on the time per output token, e.g. 30ms."),
    Flag(name="e2e", keys=("slo", "e2e"), help="Limit on the time of a whole request, e.g. 20s."),
    Flag(name="percentile", keys=("slo", "percentile"), help="Percentile of the limits, e.g. p99 (mean)."),
    Flag(name="weights", keys=("formats", "weights"), help="Weight formats allowed: fp8,bf16.", form="list"),
    Flag(name="kv", keys=("formats", "kv"), help="KV cache formats allowed: fp8,bf16.", form="list"),
    Flag(name="engine", keys=("engine",), help="Engines allowed.", form="list"),
    Flag(name="mode", keys=("modes",), help="aggregated, disaggregated, or both.", form="list"),
    Flag(name="fix", keys=("fix",), help="Degrees to fix: tp=8,pp=2.", form="pairs"),
    Flag(name="costs", keys=("costs",), help="Whose times: newel, aiconfigurator[-workers].", form="text"),
    Flag(name="assume-family", keys=("assume_family",), help="Family for an unknown model.", form="text"),
)  # fmt: skip
