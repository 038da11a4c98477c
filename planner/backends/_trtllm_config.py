"""From a pool of a plan to the configuration file of ``trtllm-serve``.

Names and values: the project's own manifest of LlmArgs (``tensorrt_llm/usage/llm_args_golden_manifest.json``)
and the ``trtllm-serve`` reference of TensorRT-LLM 1.2. Its models are strict, so an unknown key ends the
server; `check_config` holds a configuration against the part of the manifest that is written here.

Two meanings differ from the plan's. ``tensor_parallel_size`` counts all ranks of a stage. And
``free_gpu_memory_fraction`` is a share of what weights and buffers leave, so that the plan's share
for the whole engine is converted through bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from planner.backends._checkpoint import CHECKPOINT_FORMATS
from planner.backends._layout import is_dense_data_parallel
from planner.backends._pairs import check_roles
from planner.backends._protocol import TRAINING_DEGREES, Capabilities
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan, Pool

TRTLLM_VERSION = "1.2.1"

Config = dict[str, Any]

_DEFAULT_BLOCK_TOKENS = (16, 32)
"""The plan's and TensorRT-LLM's own cache block: it is left to TensorRT-LLM unless the plan wants another."""

CAPABILITIES = Capabilities(
    kinds=frozenset({"serving"}),
    engines=frozenset({"trtllm"}),
    roles=frozenset({"aggregated", "prefill", "decode"}),
    degrees=frozenset({"tp", "pp", "ep", "attention_dp", "moe_tp"}),
    limits=frozenset(
        {
            "max_model_len",
            "max_num_seqs",
            "max_num_batched_tokens",
            "token_budget",
            "memory_fraction",
            "block_size",
        }
    ),
    weight_dtypes=dict.fromkeys(("bf16", "fp16", "fp8", "fp8_block", *CHECKPOINT_FORMATS), ""),
    kv_dtypes={"auto": "auto", "bf16": "auto", "fp16": "auto", "fp8": "fp8", "nvfp4": "nvfp4"},
    refused_degrees={
        "cp": "its context parallelism for prompts is not part of trtllm-serve's stable options",
        "decode_cp": "its Helix parallelism is not part of trtllm-serve's stable options",
        **TRAINING_DEGREES,
    },
)

_KEYS: dict[str, type | frozenset[str]] = {
    "tensor_parallel_size": int,
    "pipeline_parallel_size": int,
    "pp_partition": list,
    "moe_expert_parallel_size": int,
    "moe_tensor_parallel_size": int,
    "enable_attention_dp": bool,
    "gpus_per_node": int,
    "max_batch_size": int,
    "max_num_tokens": int,
    "max_seq_len": int,
    "enable_chunked_prefill": bool,
    "disable_overlap_scheduler": bool,
    "kv_cache_config.free_gpu_memory_fraction": float,
    "kv_cache_config.dtype": frozenset({"auto", "fp8", "nvfp4"}),
    "kv_cache_config.tokens_per_block": int,
    "cuda_graph_config.enable_padding": bool,
    "cuda_graph_config.max_batch_size": int,
    "cache_transceiver_config.backend": frozenset({"DEFAULT", "UCX", "NIXL"}),
    "cache_transceiver_config.max_tokens_in_buffer": int,
}


def check_plan(backend: str, plan: Plan) -> None:
    """Refuse by name what TensorRT-LLM cannot run.

    Raises
    ------
    UnsupportedError
        Naming the decision.
    """
    CAPABILITIES.check(backend, plan)
    for index, pool in enumerate(plan.pools):
        strategy, key = pool.strategy, f"pools[{index}].strategy"
        if strategy.attention_dp > 1 and strategy.tp > 1 and not is_dense_data_parallel(strategy):
            raise UnsupportedError(
                "TensorRT-LLM runs attention data parallel over all ranks of a stage or over none",
                key=f"{key}.attention_dp",
                value=f"{strategy.attention_dp} with tp {strategy.tp}",
                allowed=f"1, or {strategy.attention_dp * strategy.tp} with tp 1",
            )
        if strategy.ep * strategy.moe_tp not in (1, stage_ranks(pool)):
            raise UnsupportedError(
                "TensorRT-LLM splits the experts over all ranks of a stage: ep times moe_tp",
                key=f"{key}.ep",
                value=f"{strategy.ep} x {strategy.moe_tp}",
                allowed=f"{stage_ranks(pool)}",
            )
    check_roles("TensorRT-LLM", plan)


def stage_ranks(pool: Pool) -> int:
    """Return the ranks of one pipeline stage of a server, tensor_parallel_size."""
    strategy = pool.strategy
    return strategy.tp * (1 if is_dense_data_parallel(strategy) else strategy.attention_dp)


def pool_config(pool: Pool, gpus_per_node: int) -> Config:
    """Return the configuration of the servers of a pool, `gpus_per_node` of whose ranks share a node."""
    strategy = pool.strategy
    config: Config = {"tensor_parallel_size": stage_ranks(pool)}
    if strategy.pp > 1:
        config["pipeline_parallel_size"] = strategy.pp
        config["pp_partition"] = list(pool.layers_per_stage)
    if strategy.ep * strategy.moe_tp > 1:
        config["moe_expert_parallel_size"] = strategy.ep
        config["moe_tensor_parallel_size"] = strategy.moe_tp
    if strategy.attention_dp > 1 and not is_dense_data_parallel(strategy):
        config["enable_attention_dp"] = True
    if stage_ranks(pool) * strategy.pp > gpus_per_node:
        config["gpus_per_node"] = gpus_per_node
    config |= _limits(pool)
    config["kv_cache_config"] = _cache_config(pool)
    if pool.role != "aggregated":
        transceiver: Config = {"backend": "DEFAULT"}
        if "max_model_len" in pool.limits:
            transceiver["max_tokens_in_buffer"] = int(pool.limits["max_model_len"])
        config["cache_transceiver_config"] = transceiver
    if pool.role == "prefill":
        config["disable_overlap_scheduler"] = True
    return config


def _limits(pool: Pool) -> Config:
    """Return the batch and length limits; with attention data parallelism those of a rank, as here."""
    limits, config = pool.limits, cast("Config", {})
    if "max_num_seqs" in limits:
        config["max_batch_size"] = int(limits["max_num_seqs"])
        config["cuda_graph_config"] = {"enable_padding": True, "max_batch_size": int(limits["max_num_seqs"])}
    budget = limits.get("token_budget", limits.get("max_num_batched_tokens"))
    if budget is not None:
        config["max_num_tokens"] = int(budget)
        config["enable_chunked_prefill"] = True
    if "max_model_len" in limits:
        config["max_seq_len"] = int(limits["max_model_len"])
    return config


def _cache_config(pool: Pool) -> Config:
    found: Config = {"dtype": CAPABILITIES.kv_dtypes[pool.kv_dtype]}
    if "memory_fraction" in pool.limits:
        found["free_gpu_memory_fraction"] = _free_share(pool)
    block = pool.limits.get("block_size")
    if block is not None and block not in _DEFAULT_BLOCK_TOKENS:
        found["tokens_per_block"] = int(block)
    return found


def _free_share(pool: Pool) -> float:
    """Return the cache's share of what everything else of the fullest stage leaves of a device.

    Raises
    ------
    InputError
        If the plan has no memory breakdown to convert by.
    """
    if not pool.memory:
        raise InputError(
            "free_gpu_memory_fraction is a share of what weights and buffers leave, and this pool does not "
            "say what they take",
            key=f"pools.{pool.name}.memory",
            value="nothing",
            allowed="a breakdown with the part kv_cache",
            hint="Leave memory_fraction out of the pool's limits, or plan again.",
        )
    shares: list[float] = []
    for stage in pool.memory:
        cache = sum(p.num_bytes for p in stage.parts if p.name in ("kv_cache", "state"))
        free = stage.capacity_bytes - (stage.used_bytes - cache)
        shares.append(cache / free)
    return min(0.98, max(0.01, int(min(shares) * 1000) / 1000))


def check_config(config: Mapping[str, object], *, file: str) -> None:
    """Hold a configuration, as read back from its file, against the keys, their types and their rules.

    Raises
    ------
    InputError
        Naming the key.
    """
    values = dict(_flat(config))
    for key, value in values.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise InputError("TensorRT-LLM has no such key that we know", file=file, key=key)
        fits = str(value) in kind if isinstance(kind, frozenset) else type(value) is kind
        if not fits:
            raise InputError("the value is of the wrong kind", file=file, key=key, value=value)
    ranks, experts = values["tensor_parallel_size"], 1
    for key in ("moe_expert_parallel_size", "moe_tensor_parallel_size"):
        experts *= cast("int", values.get(key, 1))
    if experts not in (1, ranks):
        raise InputError(
            "expert and expert-tensor parallelism must multiply to tensor_parallel_size",
            file=file,
            key="moe_expert_parallel_size",
            value=experts,
        )
    stages = cast("int", values.get("pipeline_parallel_size", 1))
    partition = cast("list[int]", values.get("pp_partition", [1]))
    if len(partition) != stages or min(partition) < 1:
        raise InputError(
            "there must be one positive number of layers per stage",
            file=file,
            key="pp_partition",
            value=partition,
        )


def _flat(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, object]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
