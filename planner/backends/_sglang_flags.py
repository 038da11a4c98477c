"""The options of SGLang's server that the exporters write, with the values they take.

Read from ``sglang/srt/arg_groups/fields`` and ``choices.py`` of the wheel sglang 0.5.23 on 2026-11-21.
``make test-backends`` holds this list against the installed parser.
"""

from __future__ import annotations

from planner.backends._launch import Takes

SGLANG_VERSION = "0.5.23"

FLAGS: dict[str, Takes] = {
    "model-path": "text",
    "served-model-name": "text",
    "host": "text",
    "port": "int",
    "dtype": "text",
    "quantization": "text",
    "kv-cache-dtype": "text",
    "tp-size": "int",
    "pp-size": "int",
    "attn-dp-size": "int",
    "attn-cp-size": "int",
    "enable-prefill-cp": "switch",
    "dcp-size": "int",
    "ep-size": "int",
    "nnodes": "int",
    "node-rank": "int",
    "dist-init-addr": "text",
    "context-length": "int",
    "max-running-requests": "int",
    "enable-priority-scheduling": "switch",
    "chunked-prefill-size": "int",
    "mem-fraction-static": "fraction",
    "page-size": "int",
    "disaggregation-mode": "text",
    "disaggregation-transfer-backend": "text",
    "disaggregation-bootstrap-port": "int",
    "enable-lora": "switch",
    "max-loras-per-batch": "int",
    "max-lora-rank": "int",
    "lora-target-modules": "text",
    "cpu-offload-gb": "int",
    "ep-num-redundant-experts": "int",
    "enable-eplb": "switch",
    "init-expert-location": "text",
}

CHOICES: dict[str, frozenset[str]] = {
    "dtype": frozenset({"auto", "bfloat16", "float16"}),
    "quantization": frozenset({"fp8"}),
    "kv-cache-dtype": frozenset({"auto", "bf16", "fp8_e4m3", "fp8_e5m2", "nvfp4"}),
    "disaggregation-mode": frozenset({"prefill", "decode"}),
    "disaggregation-transfer-backend": frozenset({"nixl", "mooncake"}),
}

ENVIRONMENT = frozenset({"CUDA_VISIBLE_DEVICES", "SGLANG_PP_LAYER_PARTITION"})
"""Environment variables that the exporters set (``sglang/srt/distributed/utils.py``)."""
