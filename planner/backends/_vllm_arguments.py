"""From a pool of a plan to the arguments and environment of ``vllm serve``.

Arguments are keyed by the flag without its dashes. Sources: vLLM 0.32.0 ``vllm serve --help``,
``vllm/config/parallel.py``, ``vllm/distributed/utils.py`` (layer partition), and the NixlConnector
usage guide of the vLLM documentation.
"""

from __future__ import annotations

from planner.backends._checkpoint import CHECKPOINT_FORMATS, FULL_PRECISION
from planner.backends._launch import Argument, Reference, safe_text
from planner.backends._layout import Server, is_dense_data_parallel
from planner.backends._pairs import check_roles
from planner.backends._protocol import TRAINING_DEGREES, Capabilities, ExportOptions
from planner.backends._vllm_flags import FLAGS
from planner.errors import InputError, UnsupportedError
from planner.plan.schema import Plan, Pool

FIRST_MASTER_PORT = 29501
FIRST_RPC_PORT = 13345
FIRST_SIDE_CHANNEL_PORT = 5600

_LIMITS = {
    "max_model_len": "max-model-len",
    "max_num_seqs": "max-num-seqs",
    "max_num_batched_tokens": "max-num-batched-tokens",
    "token_budget": "max-num-batched-tokens",
    "gpu_memory_utilization": "gpu-memory-utilization",
    "memory_fraction": "gpu-memory-utilization",
    "block_size": "block-size",
    "max_loras": "max-loras",
    "max_lora_rank": "max-lora-rank",
    "offload_group_size": "offload-group-size",
    "offload_num_in_group": "offload-num-in-group",
    "offload_experts_gib": "cpu-offload-gb",
}

_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for (``vllm.config.lora.MaxLoRARanks``)."""


_DEFAULT_BLOCK_TOKENS = 16
"""vLLM's cache block on GPUs. It is left to vLLM, which takes larger ones where a kernel wants that (MLA)."""

_KV_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}

CAPABILITIES = Capabilities(
    kinds=frozenset({"serving"}),
    engines=frozenset({"vllm"}),
    roles=frozenset({"aggregated", "prefill", "decode"}),
    degrees=frozenset({"tp", "pp", "ep", "attention_dp", "cp", "moe_tp", "decode_cp"}),
    limits=frozenset({*_LIMITS, "redundant_experts"}),
    weight_dtypes={
        "bf16": "",
        "fp16": "",
        "fp8": "fp8",
        "fp8_block": "fp8_per_block",
        **dict.fromkeys(CHECKPOINT_FORMATS, ""),
    },
    kv_dtypes={
        "auto": "auto",
        "bf16": "auto",
        "fp16": "auto",
        "fp8": "fp8",
        "fp8_e4m3": "fp8_e4m3",
        "fp8_e5m2": "fp8_e5m2",
        "nvfp4": "nvfp4",
    },
    refused_degrees=TRAINING_DEGREES,
)


PULLING, PUSHING = "NixlConnector", "NixlPushConnector"


def check_plan(backend: str, plan: Plan) -> None:
    """Refuse by name what vLLM cannot run.

    Raises
    ------
    UnsupportedError
        Naming the decision.
    """
    CAPABILITIES.check(backend, plan)
    for index, pool in enumerate(plan.pools):
        _check_experts(f"pools[{index}].strategy", pool)
        if pool.strategy.tp % pool.strategy.decode_cp:
            raise UnsupportedError(
                "vLLM splits the cache over ranks of the tensor group, so decode_cp must divide tp",
                key=f"pools[{index}].strategy.decode_cp",
                value=pool.strategy.decode_cp,
            )
    check_roles("vLLM", plan)
    _check_transfer(plan)


def _check_experts(key: str, pool: Pool) -> None:
    strategy = pool.strategy
    group = strategy.tp * strategy.attention_dp * strategy.cp
    if strategy.ep not in (1, group):
        raise UnsupportedError(
            "vLLM spreads experts over all ranks of a stage or over none",
            key=f"{key}.ep",
            value=strategy.ep,
            allowed=f"1 or {group}",
        )
    allowed = {1} if strategy.ep > 1 else {1, group}
    if strategy.moe_tp not in allowed:
        raise UnsupportedError(
            "vLLM splits each expert over all ranks of a stage or over none",
            key=f"{key}.moe_tp",
            value=strategy.moe_tp,
            allowed=" or ".join(map(str, sorted(allowed))),
        )


def _check_transfer(plan: Plan) -> None:
    """Hold prefill and decode pools against what vLLM's NIXL connectors can transfer between."""
    for d in (pool for pool in plan.pools if pool.role == "decode"):
        if d.strategy.pp > 1:
            raise UnsupportedError(
                "vLLM cannot deliver caches to a decode server with pipeline stages",
                key=f"pools.{d.name}.strategy.pp",
                value=d.strategy.pp,
                allowed="1",
            )
        for p in (pool for pool in plan.pools if pool.role == "prefill" and pool.model == d.model):
            if max(p.strategy.tp, d.strategy.tp) % min(p.strategy.tp, d.strategy.tp):
                raise UnsupportedError(
                    "vLLM's NIXL connectors need the tp of prefill and decode to divide one another",
                    key=f"pools.{d.name}.strategy.tp",
                    value=f"{p.strategy.tp} and {d.strategy.tp}",
                )
        if d.strategy.decode_cp > 1 and connector_of(plan, d) == PUSHING:
            raise UnsupportedError(
                "vLLM's NixlPushConnector, which prefill with stages needs, takes no split of the cache over "
                "ranks of decode",
                key=f"pools.{d.name}.strategy.decode_cp",
                value=d.strategy.decode_cp,
                allowed="1",
            )


def connector_of(plan: Plan, pool: Pool) -> str:
    """Return the connector that a pool's KV caches move through.

    ``NixlConnector`` has decode read them, and finds the layers of one stage only; a prefill server with
    stages writes them itself. Both ends of a model need the same connector.

    Source: wheel vllm 0.32, ``kv_connector/v1/nixl/base_worker.py``; vllm pull request 45880, 2026-06.
    """
    staged = any(p.role == "prefill" and p.model == pool.model and p.strategy.pp > 1 for p in plan.pools)
    return PUSHING if staged else PULLING


def pool_arguments(
    pool: Pool, options: ExportOptions, checkpoint_fmt: str, connector: str = PULLING
) -> dict[str, Argument]:
    """Return the arguments that all processes of a pool share.

    `checkpoint_fmt` is the weight format of the checkpoint, "" where it is not known; `connector` moves
    caches between prefill and decode.
    """
    strategy = pool.strategy
    arguments: dict[str, Argument] = {
        "model": safe_text(options.model_path(pool.model), "model"),
        "served-model-name": safe_text(pool.model, "model"),
    }
    arguments.update(_format_arguments(pool, checkpoint_fmt))
    arguments["tensor-parallel-size"] = strategy.tp
    sizes = {
        "pipeline-parallel-size": strategy.pp,
        "data-parallel-size": 1 if is_dense_data_parallel(strategy) else strategy.attention_dp,
        "prefill-context-parallel-size": strategy.cp,
        "decode-context-parallel-size": strategy.decode_cp,
    }
    arguments.update({flag: size for flag, size in sizes.items() if size > 1})
    if strategy.ep > 1:
        arguments["enable-expert-parallel"] = True
    for name, value in sorted(pool.limits.items()):
        if name == "redundant_experts":
            arguments["enable-eplb"] = True
            arguments["eplb-config"] = {"num_redundant_experts": int(value)}
        elif (name, value) != ("block_size", _DEFAULT_BLOCK_TOKENS):
            arguments[_LIMITS[name]] = _limit(name, value)
    if "max_lora_rank" in pool.limits:
        arguments["enable-lora"] = True
        arguments["max-lora-rank"] = _lora_rank(int(pool.limits["max_lora_rank"]))
    if "offload_group_size" in pool.limits:
        arguments["offload-backend"] = "prefetch"
        arguments["offload-prefetch-step"] = 1
    if "offload_experts_gib" in pool.limits:
        arguments["offload-backend"] = "uva"
        arguments["cpu-offload-params"] = "experts"
    if options.request_priorities:
        arguments["scheduling-policy"] = "priority"
    if pool.role in _KV_ROLES:
        arguments["kv-transfer-config"] = {
            "kv_connector": connector,
            "kv_role": _KV_ROLES[pool.role],
            "kv_load_failure_policy": "fail",
        }
    return arguments


def _lora_rank(rank: int) -> int:
    """Return the least rank that vLLM makes room for and that holds adapters of a rank.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    found = next((one for one in _LORA_RANKS if one >= rank), None)
    if found is None:
        raise UnsupportedError(
            "vLLM takes no adapters of this rank",
            key="pools.limits.max_lora_rank",
            value=rank,
            allowed=f"at most {_LORA_RANKS[-1]}",
        )
    return found


def _format_arguments(pool: Pool, checkpoint_fmt: str) -> dict[str, Argument]:
    """Return dtype, quantisation and KV format; formats of the checkpoint are left to vLLM to find."""
    found: dict[str, Argument] = {"kv-cache-dtype": CAPABILITIES.kv_dtypes[pool.kv_dtype]}
    if pool.weight_dtype in FULL_PRECISION:
        found["dtype"] = "bfloat16" if pool.weight_dtype == "bf16" else "float16"
    method = CAPABILITIES.weight_dtypes[pool.weight_dtype]
    if method and checkpoint_fmt in ("", *FULL_PRECISION):
        found["quantization"] = method
    return found


def needs_own_checkpoint(pool: Pool, checkpoint_fmt: str) -> bool:
    """Return whether the plan's weight format must come with a checkpoint other than the model's own.

    vLLM quantises a 16-bit checkpoint to FP8 while it loads; it converts nothing else.
    """
    if pool.weight_dtype == checkpoint_fmt:
        return False
    can_convert = pool.weight_dtype not in CHECKPOINT_FORMATS
    return not (can_convert and checkpoint_fmt in ("", *FULL_PRECISION))


def refuse_pushing(backend: str, plan: Plan) -> None:
    """Refuse a plan whose caches must be pushed, for a runtime that knows the pulling connector alone.

    Raises
    ------
    UnsupportedError
        Naming the decision.
    """
    for pool in plan.pools:
        if pool.engine == "vllm" and pool.role == "prefill" and connector_of(plan, pool) == PUSHING:
            raise UnsupportedError(
                f"{backend} does not know vLLM's {PUSHING}, which prefill with pipeline stages needs",
                key=f"pools.{pool.name}.strategy.pp",
                value=pool.strategy.pp,
                allowed="1",
            )


def server_arguments(server: Server, serial: int, leader: Reference) -> dict[str, Argument]:
    """Return the arguments that tie the processes of the plan's `serial`-th server together."""
    found: dict[str, Argument] = {}
    if len(server.processes) > 1:
        found["distributed-executor-backend"] = "mp"
        found["nnodes"] = len(server.processes)
        found["master-port"] = FIRST_MASTER_PORT + serial
        found["master-addr"] = leader
    if server.data_parallel > 1:
        found["data-parallel-rpc-port"] = FIRST_RPC_PORT + serial
    return found


def pool_environment(pool: Pool) -> dict[str, str]:
    """Return the environment that all processes of a pool share.

    vLLM spreads layers evenly unless VLLM_PP_LAYER_PARTITION says how many each stage holds.

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
    return {"VLLM_PP_LAYER_PARTITION": ",".join(str(n) for n in pool.layers_per_stage)}


def side_channel_port(plan: Plan, serial: int) -> int:
    """Return the first NIXL port of the plan's `serial`-th server; rank r of data parallel takes port + r."""
    return FIRST_SIDE_CHANNEL_PORT + serial * max(pool.strategy.attention_dp for pool in plan.pools)


def uses_side_channel(pool: Pool) -> bool:
    """Return whether the pool exchanges KV caches with another pool."""
    return pool.role in _KV_ROLES


def _limit(name: str, value: float) -> int | float:
    if FLAGS[_LIMITS[name]] != "int":
        return float(value)
    if value != int(value) or value < 1:
        raise InputError(
            "a limit of the plan is no count", key=f"pools.limits.{name}", value=value, allowed="1, 2, ..."
        )
    return int(value)
