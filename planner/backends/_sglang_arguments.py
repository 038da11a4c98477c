"""From a pool of a plan to the arguments and environment of SGLang's server.

Arguments are keyed by the flag without its dashes. Source of their meaning: the wheel sglang 0.5.23,
``sglang/srt/arg_groups`` (options and how they are resolved) and ``srt/distributed``.

Three meanings differ from the plan's. ``tp-size`` counts all ranks of a stage: attention splits them over
``attn-dp-size`` and ``attn-cp-size``, experts over ``ep-size`` and the rest. ``max-running-requests`` and
``chunked-prefill-size`` are those of the whole server and are divided by ``attn-dp-size``.
``mem-fraction-static`` covers weights and caches alone, so that the plan's share for the whole engine
is converted through bytes.
"""

from __future__ import annotations

from planner.backends._checkpoint import CHECKPOINT_FORMATS, FULL_PRECISION
from planner.backends._launch import Argument, Reference, safe_text
from planner.backends._layout import Server, is_dense_data_parallel
from planner.backends._pairs import check_roles
from planner.backends._protocol import TRAINING_DEGREES, Capabilities, ExportOptions
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan, Pool

FIRST_RENDEZVOUS_PORT = 20000
RENDEZVOUS_STRIDE = 100
"""Beside the rendezvous itself, attention data parallelism takes some ports after it."""

_LIMITS = {
    "max_model_len": "context-length",
    "max_num_seqs": "max-running-requests",
    "max_num_batched_tokens": "chunked-prefill-size",
    "token_budget": "chunked-prefill-size",
    "memory_fraction": "mem-fraction-static",
    "block_size": "page-size",
    "max_loras": "max-loras-per-batch",
    "max_lora_rank": "max-lora-rank",
    "offload_gib": "cpu-offload-gb",
    "redundant_experts": "ep-num-redundant-experts",
}

_PER_RANK = ("max-running-requests", "chunked-prefill-size")

CAPABILITIES = Capabilities(
    kinds=frozenset({"serving"}),
    engines=frozenset({"sglang"}),
    roles=frozenset({"aggregated", "prefill", "decode"}),
    degrees=frozenset({"tp", "pp", "ep", "attention_dp", "cp", "moe_tp", "decode_cp"}),
    limits=frozenset(_LIMITS),
    weight_dtypes={
        "bf16": "",
        "fp16": "",
        "fp8": "fp8",
        "fp8_block": "",
        **dict.fromkeys(CHECKPOINT_FORMATS, ""),
    },
    kv_dtypes={
        "auto": "auto",
        "bf16": "auto",
        "fp16": "auto",
        "fp8": "fp8_e4m3",
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
        "nvfp4": "nvfp4",
    },
    refused_degrees=TRAINING_DEGREES,
)


def check_plan(backend: str, plan: Plan) -> None:
    """Refuse by name what SGLang cannot run.

    Raises
    ------
    UnsupportedError
        Naming the decision.
    """
    CAPABILITIES.check(backend, plan)
    for index, pool in enumerate(plan.pools):
        _check_degrees(f"pools[{index}].strategy", pool)
    check_roles("SGLang", plan)


def _check_degrees(key: str, pool: Pool) -> None:
    strategy = pool.strategy
    group = stage_ranks(pool)
    if strategy.ep * strategy.moe_tp not in (1, group):
        raise UnsupportedError(
            "SGLang splits the experts over all ranks of a stage: ep times moe_tp",
            key=f"{key}.ep",
            value=f"{strategy.ep} x {strategy.moe_tp}",
            allowed=f"{group}",
        )
    if strategy.tp % strategy.decode_cp:
        raise UnsupportedError(
            "SGLang splits the cache over ranks of the tensor group, so decode_cp must divide tp",
            key=f"{key}.decode_cp",
            value=strategy.decode_cp,
        )
    if strategy.cp > 1 and strategy.pp > 1:
        raise UnsupportedError(
            "SGLang has no prefill context parallelism together with pipeline stages",
            key=f"{key}.cp",
            value=strategy.cp,
            allowed="1",
        )
    if strategy.cp > 1 and strategy.decode_cp > 1:
        raise UnsupportedError(
            "SGLang splits either the prompt or the cache of a server, not both",
            key=f"{key}.decode_cp",
            value=strategy.decode_cp,
            allowed="1",
        )


def stage_ranks(pool: Pool) -> int:
    """Return the ranks of one pipeline stage of a server, SGLang's tp-size."""
    strategy = pool.strategy
    attention_dp = 1 if is_dense_data_parallel(strategy) else strategy.attention_dp
    return strategy.tp * strategy.cp * attention_dp


def pool_arguments(pool: Pool, options: ExportOptions, checkpoint_fmt: str) -> dict[str, Argument]:
    """Return the arguments that all processes of a pool share.

    `checkpoint_fmt` is the weight format of the checkpoint, "" where it is not known.
    """
    strategy = pool.strategy
    attention_dp = 1 if is_dense_data_parallel(strategy) else strategy.attention_dp
    arguments: dict[str, Argument] = {
        "model-path": safe_text(options.model_path(pool.model), "model"),
        "served-model-name": safe_text(pool.model, "model"),
    }
    arguments.update(_format_arguments(pool, checkpoint_fmt))
    arguments["tp-size"] = stage_ranks(pool)
    sizes = {
        "pp-size": strategy.pp,
        "attn-dp-size": attention_dp,
        "attn-cp-size": strategy.cp,
        "dcp-size": strategy.decode_cp,
        "ep-size": strategy.ep,
    }
    arguments.update({flag: size for flag, size in sizes.items() if size > 1})
    if strategy.cp > 1:
        arguments["enable-prefill-cp"] = True
    for name, value in sorted(pool.limits.items()):
        flag = _LIMITS[name]
        if flag == "mem-fraction-static":
            arguments[flag] = _static_share(pool, float(value))
        else:
            arguments[flag] = _count(name, value) * (attention_dp if flag in _PER_RANK else 1)
    if "max_lora_rank" in pool.limits:
        arguments["enable-lora"] = True
        arguments["lora-target-modules"] = "all"
    if options.request_priorities:
        arguments["enable-priority-scheduling"] = True
    if pool.role in ("prefill", "decode"):
        arguments["disaggregation-mode"] = pool.role
        arguments["disaggregation-transfer-backend"] = "nixl"
    return arguments


def _format_arguments(pool: Pool, checkpoint_fmt: str) -> dict[str, Argument]:
    found: dict[str, Argument] = {"kv-cache-dtype": CAPABILITIES.kv_dtypes[pool.kv_dtype]}
    if pool.weight_dtype in FULL_PRECISION:
        found["dtype"] = "bfloat16" if pool.weight_dtype == "bf16" else "float16"
    method = CAPABILITIES.weight_dtypes[pool.weight_dtype]
    if method and checkpoint_fmt in ("", *FULL_PRECISION):
        found["quantization"] = method
    return found


def needs_own_checkpoint(pool: Pool, checkpoint_fmt: str) -> bool:
    """Return whether the plan's weight format must come with a checkpoint other than the model's own.

    SGLang quantises a 16-bit checkpoint to per-channel FP8 while it loads; it converts nothing else.
    """
    if pool.weight_dtype == checkpoint_fmt:
        return False
    can_convert = pool.weight_dtype in ("fp8", *FULL_PRECISION)
    return not (can_convert and checkpoint_fmt in ("", *FULL_PRECISION))


def _static_share(pool: Pool, fraction: float) -> float:
    """Return mem-fraction-static: weights and caches of the fullest stage over the memory of a device.

    A plan without a memory breakdown gives the share of the engine as it is, which is too much.

    Raises
    ------
    InputError
        If the plan has no memory breakdown to convert by.
    """
    if not pool.memory:
        raise InputError(
            "mem-fraction-static covers weights and caches only, and this pool does not say what they take",
            key=f"pools.{pool.name}.memory",
            value="nothing",
            allowed="a breakdown with the parts weights and kv_cache",
            hint="Leave memory_fraction out of the pool's limits, or plan again.",
        )
    shares = [
        sum(p.num_bytes for p in stage.parts if p.name in ("weights", "kv_cache", "state"))
        / stage.capacity_bytes
        for stage in pool.memory
    ]
    return min(fraction, max(0.01, int(min(shares) * 1000) / 1000))


def _count(name: str, value: float) -> int:
    if value != int(value) or value < 1:
        raise InputError(
            "a limit of the plan is no count", key=f"pools.limits.{name}", value=value, allowed="1, 2, ..."
        )
    return int(value)


def server_arguments(server: Server, serial: int, leader: Reference) -> dict[str, Argument]:
    """Return the arguments that tie the processes of the plan's `serial`-th server together."""
    found: dict[str, Argument] = {}
    if len(server.processes) > 1:
        found["nnodes"] = len(server.processes)
        port = FIRST_RENDEZVOUS_PORT + RENDEZVOUS_STRIDE * serial
        found["dist-init-addr"] = leader.then(f":{port}")
    return found


def pool_environment(pool: Pool) -> dict[str, str]:
    """Return the environment that all processes of a pool share.

    SGLang gives the last stages the layers that are over; SGLANG_PP_LAYER_PARTITION says otherwise.

    Raises
    ------
    InputError
        If the plan does not say how many layers each stage holds.
    """
    if pool.strategy.pp == 1:
        return {}
    if len(pool.layers_per_stage) != pool.strategy.pp:
        raise InputError(
            f"pool {pool.name!r} has {pool.strategy.pp} stages",
            key="pools.layers_per_stage",
            value=pool.layers_per_stage,
            allowed=f"{pool.strategy.pp} numbers",
        )
    return {"SGLANG_PP_LAYER_PARTITION": ",".join(str(n) for n in pool.layers_per_stage)}
