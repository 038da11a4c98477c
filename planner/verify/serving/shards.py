"""What one device holds of a model: weights, cache and state, worked out operator by operator.

Own arithmetic on the model graph: a matrix split into n parts gives every rank ceil(size / n) of the
split side; heads are never cut, so ranks beyond the KV heads hold copies.
"""

from __future__ import annotations

from math import ceil

from cost_models.formats import number_format
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, Experts, Linear, ModelGraph, Op, Small, StateCore
from planner.ir.serving import Adapters
from planner.plan.schema import Pool, StrategyModel

_VOCABULARY_MULTIPLE = 64
"""vLLM pads vocabulary tables to a multiple of this (``DEFAULT_VOCAB_PADDING_SIZE``)."""
_RECURRENT_BYTES = 4.0
_HALF_BYTES = 2.0


def bytes_of(fmt: str) -> float:
    """Return stored bytes per element, scales included."""
    return number_format(fmt).weight_bits / 8.0


def device_bytes(group: NodeGroup) -> float:
    """Return the memory of one device: what its driver reports where that is known."""
    device = group.device
    reported = device.driver_memory_bytes
    return device.memory_bytes.value if reported is None else reported.value


def linear_shape(op: Linear, tp: int) -> tuple[int, int]:
    """Return the (inputs, outputs) that the fullest tensor rank multiplies."""
    rows, columns = op.in_features, op.out_features
    match op.shard:
        case "row":
            rows = _part(rows, op.num_units, tp)
        case "column":
            columns = _part(columns, op.num_units, tp)
        case "kv_column":
            columns = _part(columns, op.num_units, tp)
        case "vocab":
            if op.slot == "head":
                columns = ceil(_padded(columns) / tp)
            else:
                rows = ceil(_padded(rows) / tp)
        case "replicated":
            pass
    return rows, columns


def _padded(rows: int) -> int:
    return ceil(rows / _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def _part(features: int, num_units: int, tp: int) -> int:
    if num_units == 0:
        return ceil(features / tp)
    width = features // num_units
    return width * max(1, ceil(num_units / tp))


def weight_bytes(
    op: Op, model: ModelGraph, weight_fmt: str, strategy: StrategyModel, copies: int = 0
) -> float:
    """Return the bytes of one operator's weights on the fullest rank, with so many experts there twice."""
    if isinstance(op, Linear):
        rows, columns = linear_shape(op, strategy.tp)
        elements = rows * columns + (columns if op.bias else 0)
        return elements * bytes_of(model.weight_fmt(op, weight_fmt))
    if isinstance(op, Experts):
        inter = ceil(op.inter / strategy.moe_tp)
        maps = 3 if op.gated else 2
        one = maps * op.hidden * inter + (((maps - 1) * inter + op.hidden) if op.bias else 0)
        held = ceil((op.num_experts + copies) / strategy.ep)
        return held * one * bytes_of(model.weight_fmt(op, weight_fmt))
    if isinstance(op, Small):
        parts = strategy.tp if op.shard == "column" else 1
        return ceil(op.num_params / parts) * bytes_of(model.checkpoint_dtype)
    return 0.0


def stage_ops(model: ModelGraph, layers_per_stage: list[int], stage: int) -> list[Op]:
    """Return all operators of a stage; a tied head is the embedding again unless both share a device."""
    start = sum(layers_per_stage[:stage])
    found: list[Op] = []
    for layer in model.layers[start : start + layers_per_stage[stage]]:
        found.extend(layer.ops)
    first, last = stage == 0, stage == len(layers_per_stage) - 1
    if first:
        found.extend((*model.embedding, *model.extra))
    if last:
        tied_here = first
        found.extend(op for op in model.head if not (tied_here and isinstance(op, Linear) and op.tied))
    return found


def stage_weight_bytes(model: ModelGraph, pool: Pool, stage: int) -> float:
    """Return the bytes of weights on the fullest device of a stage."""
    ops = stage_ops(model, pool.layers_per_stage, stage)
    copies = int(pool.limits.get("redundant_experts", 0))
    return sum(weight_bytes(op, model, pool.weight_dtype, pool.strategy, copies) for op in ops)


def stage_adapter_bytes(model: ModelGraph, pool: Pool, stage: int, adapters: Adapters) -> float:
    """Return the bytes of all resident adapters on a device of a stage: two 16-bit factors per linear map."""
    total = 0
    start = sum(pool.layers_per_stage[:stage])
    for layer in model.layers[start : start + pool.layers_per_stage[stage]]:
        for op in layer.ops:
            if isinstance(op, Linear) and op.per_token > 0:
                total += adapters.rank * sum(linear_shape(op, pool.strategy.tp))
    return _HALF_BYTES * adapters.num_resident * total


def cache_format(model: ModelGraph, kv_dtype: str) -> str:
    """Return the format of the cache; ``auto`` is that of the checkpoint."""
    if kv_dtype != "auto":
        return kv_dtype
    return model.checkpoint_dtype if model.checkpoint_kv_fmt == "auto" else model.checkpoint_kv_fmt


def sequence_bytes(model: ModelGraph, pool: Pool, stage: int, num_tokens: float) -> float:
    """Return the cache and state of one sequence of `num_tokens` on the fullest device of a stage."""
    width = bytes_of(cache_format(model, pool.kv_dtype)) / pool.strategy.decode_cp
    total = 0.0
    for op in stage_ops(model, pool.layers_per_stage, stage):
        if isinstance(op, AttentionCore):
            total += entries(op, num_tokens) * entry_elements(op, pool.strategy.tp) * width
        elif isinstance(op, StateCore):
            total += ceil(op.recurrent_elems / pool.strategy.tp) * _RECURRENT_BYTES
            total += op.conv_elems / pool.strategy.tp * _HALF_BYTES
    return total


def entries(core: AttentionCore, num_tokens: float) -> float:
    """Return the cache entries that a layer keeps of a sequence."""
    if core.shares_kv or core.cross:
        return 0.0
    kept = min(num_tokens, core.window) if core.window else num_tokens
    return kept + num_tokens / core.compress_ratio if core.compress_ratio else kept


def entry_elements(core: AttentionCore, tp: int) -> float:
    """Return the elements of one entry on a tensor rank; latents and index keys are whole on each."""
    if core.kind == "mla":
        return core.latent_dim + core.rope_dim + core.index_dim
    heads = max(1, ceil(core.num_kv_heads / tp))
    return heads * (core.head_dim + core.v_head_dim) + core.index_dim
