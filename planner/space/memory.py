"""Resident bytes of the fullest device of a stage, to the last term, and the cache that is left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cost_models.serving.requests import Requests
from hardware_profiles.schema import SoftwareProfile
from planner.ir.candidates import StageMemory
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, ModelGraph, Op, Small, StateCore
from planner.ir.serving import Adapters
from planner.ir.strategy import ServingStrategy
from planner.space.engine import bytes_per_element, kv_format
from planner.space.weight_offload import HeldBack, OpBytes

BLOCK_TOKENS = 16
"""Tokens per cache block, vLLM's default; a sequence wastes half a block on average."""
COMMUNICATOR_BYTES = 16 * 2 * 4 * 2**20
"""Buffers of one communicator: 16 channels, send and receive, 4 MiB each (NCCL_BUFFSIZE default)."""
HALF_BYTES = 2.0
LOGIT_BYTES = 4.0
MAX_EXPERT_TOKENS = 32768
"""Expert kernels work through at most so many tokens at a time (vLLM's fused experts chunk)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Residency:
    """Formats and limits that decide what is resident.

    `memory_fraction` is a share of `memory_scope` (see `hardware_profiles.schema.SoftwareProfile`).
    """

    strategy: ServingStrategy
    weight_fmt: str
    kv_fmt: str
    token_budget: float
    max_sequences: float
    memory_fraction: float
    memory_scope: str = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBytes:
    """Bytes of the fullest device of one stage.

    `cache_bytes_per_sequence` is for a running sequence of mean residency, `cache_bytes_longest` for the
    longest request, `cache_bytes_prompt` for a mean prompt; `free_bytes` is what the cache may use.
    `host_bytes` of the weights are in host memory instead.
    """

    parts: tuple[tuple[str, float], ...]
    capacity_bytes: float
    usable_bytes: float
    cache_bytes_per_sequence: float
    cache_bytes_longest: float
    cache_bytes_prompt: float
    host_bytes: float = 0.0

    @property
    def free_bytes(self) -> float:
        """Bytes left for the cache; negative if the weights do not fit."""
        return self.usable_bytes - sum(num_bytes for _, num_bytes in self.parts)

    def report(self, stage: int, cache_bytes: float) -> StageMemory:
        """Return the memory of the stage with so much cache."""
        parts = (*self.parts, ("kv_cache", cache_bytes))
        return StageMemory(stage=stage, parts=parts, capacity_bytes=self.capacity_bytes)


def usable_bytes(capacity: float, parts: tuple[tuple[str, float], ...], what: Residency) -> float:
    """Return what all parts and the cache may take together on a device.

    Source: meaning of gpu_memory_utilization (vLLM), mem_fraction_static (SGLang) and
    free_gpu_memory_fraction (TensorRT-LLM) in the documents that their profiles name.
    """
    held = sum(num_bytes for _, num_bytes in parts)
    if what.memory_scope == "free":
        return held + what.memory_fraction * max(capacity - held, 0.0) if held <= capacity else capacity
    if what.memory_scope == "static":
        return min(capacity, capacity * what.memory_fraction + held - dict(parts)["weights"])
    return capacity * what.memory_fraction


def device_capacity_bytes(group: NodeGroup) -> float:
    """Return the memory of one device: what the driver reports where that is known."""
    reported = group.device.driver_memory_bytes
    return reported.value if reported is not None else group.device.memory_bytes.value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryModel:
    """Sizes of one model on one node group under one engine."""

    model: ModelGraph
    group: NodeGroup
    software: SoftwareProfile
    requests: Requests
    adapters: Adapters | None = None
    _layers: dict[tuple[object, ...], tuple[float, float, float, float]] = field(
        default_factory=dict[tuple[object, ...], tuple[float, float, float, float]]
    )
    _stages: dict[tuple[object, ...], tuple[float, float, float, float]] = field(
        default_factory=dict[tuple[object, ...], tuple[float, float, float, float]]
    )
    _widths: dict[tuple[int, int], float] = field(default_factory=dict[tuple[int, int], float])

    def stage(
        self,
        layers: tuple[tuple[Layer, int], ...],
        first: bool,
        last: bool,
        what: Residency,
        held: HeldBack | None = None,
    ) -> StageBytes:
        """Return the bytes of a stage that holds each layer so many times, but for what is `held` back."""
        weights, mean, longest, prompt = self._resident(layers, first, last, what)
        capacity = device_capacity_bytes(self.group)
        parts = (
            ("weights", weights - held.host_bytes if held is not None else weights),
            ("activations", self._activation_bytes(layers, last, what)),
            ("communication", self._communication_bytes(what.strategy)),
            ("graphs", self.software.graph_memory_bytes.value),
            ("context", self.software.context_memory_bytes.value),
            *self._adapters(layers, what.strategy.tp),
            *((("weight_buffers", held.buffer_bytes),) if held is not None else ()),
        )
        return StageBytes(
            parts=parts,
            capacity_bytes=capacity,
            usable_bytes=usable_bytes(capacity, parts, what),
            cache_bytes_per_sequence=mean,
            cache_bytes_longest=longest,
            cache_bytes_prompt=prompt,
            host_bytes=held.host_bytes if held is not None else 0.0,
        )

    def op_bytes(self, what: Residency) -> OpBytes:
        """Return what says how many bytes the weights of an operator take on the fullest rank."""
        return lambda op: self._weight_bytes(op, what)

    def _adapters(self, layers: tuple[tuple[Layer, int], ...], tp: int) -> Iterator[tuple[str, float]]:
        """Yield what resident adapters take, where there are any."""
        if self.adapters is not None:
            elems = sum(
                count * self.adapters.elems_per_rank(op, tp)
                for layer, count in layers
                for op in layer.ops
                if isinstance(op, Linear) and op.per_token > 0.0
            )
            yield "adapters", elems * HALF_BYTES * self.adapters.num_resident

    def _resident(
        self, layers: tuple[tuple[Layer, int], ...], first: bool, last: bool, what: Residency
    ) -> tuple[float, float, float, float]:
        """Return weights, and the caches of `StageBytes`: what does not depend on the size of a step."""
        counts = tuple((id(layer), count) for layer, count in layers)
        key = (counts, first, last, what.strategy, what.weight_fmt, what.kv_fmt)
        if key in self._stages:
            return self._stages[key]
        ends: list[Op] = []
        if first:
            ends.extend((*self.model.embedding, *self.model.extra))
        if last:
            ends.extend(op for op in self.model.head if not (first and isinstance(op, Linear) and op.tied))
        weights = sum(self._weight_bytes(op, what) for op in ends)
        mean = longest = prompt = 0.0
        tokens = (
            int(max(self.requests.input_tokens + self.requests.output_tokens)),
            int(self.requests.mean(self.requests.input_tokens)),
        )
        for layer, count in layers:
            per_layer = self._layer_bytes(layer, tokens, what)
            weights += count * per_layer[0]
            mean += count * per_layer[1]
            longest += count * per_layer[2]
            prompt += count * per_layer[3]
        self._stages[key] = (weights, mean, longest, prompt)
        return self._stages[key]

    def _layer_bytes(
        self, layer: Layer, tokens: tuple[int, int], what: Residency
    ) -> tuple[float, float, float, float]:
        """Return weights, mean cache of a running sequence, and caches of two lengths of one layer."""
        key = (id(layer), replace(what.strategy, pp=1), what.weight_fmt, what.kv_fmt)
        if key not in self._layers:
            self._layers[key] = (
                sum(self._weight_bytes(op, what) for op in layer.ops),
                sum(self._mean_cache_bytes(op, what) for op in layer.ops),
                sum(self._cache_bytes(op, tokens[0], what) for op in layer.ops),
                sum(self._cache_bytes(op, tokens[1], what) for op in layer.ops),
            )
        return self._layers[key]

    def _weight_bytes(self, op: Op, what: Residency) -> float:
        """Return the bytes of one operator's weights on the fullest rank."""
        strategy = what.strategy
        if isinstance(op, Linear):
            width = bytes_per_element(self.model.weight_fmt(op, what.weight_fmt))
            return op.num_params_per_rank(strategy.tp) * width
        if isinstance(op, Experts):
            width = bytes_per_element(self.model.weight_fmt(op, what.weight_fmt))
            return op.num_params_per_rank(strategy.ep, strategy.moe_tp, strategy.redundant_experts) * width
        if isinstance(op, Small):
            return op.num_params_per_rank(strategy.tp) * bytes_per_element(self.model.checkpoint_dtype)
        return 0.0

    def _row_bytes(self, core: AttentionCore, what: Residency) -> float:
        """Return cache bytes per entry on one rank; decode context parallelism splits the sequence."""
        width = bytes_per_element(kv_format(self.model, what.kv_fmt))
        return core.cache_elems_per_token_per_rank(what.strategy.tp) * width / what.strategy.decode_cp

    def _cache_bytes(self, op: Op, num_tokens: int, what: Residency) -> float:
        """Return the cache of one operator for a sequence of so many tokens, in whole blocks."""
        if isinstance(op, StateCore):
            return self._state_bytes(op, what.strategy.tp)
        if not isinstance(op, AttentionCore):
            return 0.0
        blocks = -(-num_tokens // BLOCK_TOKENS) * BLOCK_TOKENS
        return op.num_entries(blocks) * self._row_bytes(op, what)

    def _mean_cache_bytes(self, op: Op, what: Residency) -> float:
        """Return the cache of one operator for a running sequence, in the mean over its life."""
        if isinstance(op, StateCore):
            return self._state_bytes(op, what.strategy.tp)
        if not isinstance(op, AttentionCore) or op.shares_kv or op.cross:
            return 0.0
        full = self.requests.context_moments()[0]
        kept = self.requests.context_moments(float(op.window))[0]
        entries = kept + full / op.compress_ratio if op.compress_ratio else kept
        return (entries + BLOCK_TOKENS / 2.0) * self._row_bytes(op, what)

    def _state_bytes(self, core: StateCore, tp: int) -> float:
        return core.recurrent_elems_per_rank(tp) * 4.0 + core.conv_elems_per_rank(tp) * HALF_BYTES

    def _activation_bytes(self, layers: tuple[tuple[Layer, int], ...], last: bool, what: Residency) -> float:
        """Return the peak of a forward pass at the token budget, in 16 bit.

        Residual and normed input (2 hidden), the widest pair of neighbouring maps, and routed copies;
        the last stage also holds the logits of all sequences of a micro-batch in 32 bit.
        """
        tp = what.strategy.tp
        tokens = what.token_budget / what.strategy.prefill_cp
        widest = max((self._width(layer, tp) for layer, _ in layers), default=0.0)
        routed = max((self._routed_bytes(layer, what) for layer, _ in layers), default=0.0)
        sampled = what.max_sequences / what.strategy.pp if last else 0.0
        logits = sampled * self.model.vocab_size * (LOGIT_BYTES + HALF_BYTES)
        body = tokens * (2.0 * self.model.hidden_size + widest) * HALF_BYTES + routed
        return max(body, logits + tokens * 2.0 * self.model.hidden_size * HALF_BYTES)

    def _width(self, layer: Layer, tp: int) -> float:
        key = (id(layer), tp)
        if key not in self._widths:
            slots: dict[str, float] = {}
            for op in layer.ops:
                if isinstance(op, Linear):
                    slots[op.slot] = slots.get(op.slot, 0.0) + op.shape_per_rank(tp)[1]
            self._widths[key] = max(slots.values(), default=0.0) * 1.5
        return self._widths[key]

    def _routed_bytes(self, layer: Layer, what: Residency) -> float:
        strategy = what.strategy
        tokens = min(what.token_budget * strategy.attention_dp, MAX_EXPERT_TOKENS)
        return max(
            (
                tokens * op.top_k / strategy.ep * (op.hidden + 3.0 * op.inter / strategy.moe_tp) * HALF_BYTES
                for op in layer.ops
                if isinstance(op, Experts)
            ),
            default=0.0,
        )

    def _communication_bytes(self, strategy: ServingStrategy) -> float:
        groups = (
            strategy.tp,
            strategy.pp,
            strategy.attention_dp * strategy.prefill_cp,
            strategy.decode_cp,
        )
        return float(COMMUNICATOR_BYTES * sum(degree > 1 for degree in groups))
