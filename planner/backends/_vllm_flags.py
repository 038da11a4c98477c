"""The flags of ``vllm serve`` that the exporters write, with the values they take.

Read from the parser that vLLM 0.32.0 builds (``vllm.entrypoints.launchers.cli_args.make_arg_parser``)
on 2026-11-21; vLLM 0.33.0 removed none of them. ``make test-backends`` holds this list against the
installed parser.
"""

from __future__ import annotations

from planner.backends._launch import Takes

VLLM_VERSION = "0.32.0"

FLAGS: dict[str, Takes] = {
    "model": "text",
    "served-model-name": "text",
    "host": "text",
    "port": "int",
    "headless": "switch",
    "dtype": "text",
    "quantization": "text",
    "kv-cache-dtype": "text",
    "tensor-parallel-size": "int",
    "pipeline-parallel-size": "int",
    "data-parallel-size": "int",
    "data-parallel-rpc-port": "int",
    "prefill-context-parallel-size": "int",
    "decode-context-parallel-size": "int",
    "enable-expert-parallel": "switch",
    "distributed-executor-backend": "text",
    "nnodes": "int",
    "node-rank": "int",
    "master-addr": "text",
    "master-port": "int",
    "max-model-len": "int",
    "max-num-seqs": "int",
    "scheduling-policy": "text",
    "max-num-batched-tokens": "int",
    "gpu-memory-utilization": "fraction",
    "block-size": "int",
    "kv-transfer-config": "json",
    "enable-lora": "switch",
    "max-loras": "int",
    "max-lora-rank": "int",
    "offload-backend": "text",
    "offload-group-size": "int",
    "offload-num-in-group": "int",
    "offload-prefetch-step": "int",
    "cpu-offload-gb": "int",
    "cpu-offload-params": "text",
    "enable-eplb": "switch",
    "eplb-config": "json",
}

CHOICES: dict[str, frozenset[str]] = {
    "offload-backend": frozenset({"prefetch", "uva"}),
    "scheduling-policy": frozenset({"fcfs", "priority"}),
    "dtype": frozenset({"auto", "bfloat16", "float16"}),
    "quantization": frozenset({"fp8", "fp8_per_block", "fp8_per_tensor"}),
    "kv-cache-dtype": frozenset({"auto", "bfloat16", "float16", "fp8", "fp8_e4m3", "fp8_e5m2", "nvfp4"}),
    "distributed-executor-backend": frozenset({"mp"}),
}

KV_TRANSFER_KEYS = frozenset({"kv_connector", "kv_role", "kv_load_failure_policy"})
KV_ROLES = frozenset({"kv_producer", "kv_consumer", "kv_both"})

ENVIRONMENT = frozenset(
    {
        "CUDA_VISIBLE_DEVICES",
        "VLLM_PP_LAYER_PARTITION",
        "VLLM_NIXL_SIDE_CHANNEL_HOST",
        "VLLM_NIXL_SIDE_CHANNEL_PORT",
    }
)
"""Environment variables that the exporters set (``vllm/envs.py``, vLLM 0.32.0)."""
