"""How long an engine step takes: every operator of every stage priced for one given batch.

A step of an attention rank carries `decode` sequences of `context` cached tokens each and `pieces`
pieces of prompts of `prompt` tokens that follow `before` cached ones. Nothing is tabulated. Kernels take
whole tiles, so a step is priced as the mean over the numbers of sequences that it really meets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import NormalDist

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.formats import executed_format, number_format
from cost_models.work import (
    Attention,
    Collective,
    CollectiveOp,
    ExpertGemm,
    Gemm,
    HostTransfer,
    LinkSpec,
    Span,
    StateScan,
    Stream,
    TokenExchange,
    Work,
)
from hardware_profiles.schema import SoftwareProfile
from planner.ir.launches import DENSE_LAUNCHES, num_launches
from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, ModelGraph, Op, StateCore
from planner.ir.serving import Adapters
from planner.ir.workload import Images
from planner.plan.schema import Pool
from planner.verify.serving.images import image_work
from planner.verify.serving.shards import cache_format, entry_elements, linear_shape
from planner.verify.serving.spans import ReplicaSpans
from planner.verify.serving.streaming import away_from, read_bytes, waits_s

_HALF = 2.0
_NUM_DRAWS = 7
_DRAWS = np.array([NormalDist().inv_cdf((i + 0.5) / _NUM_DRAWS) for i in range(_NUM_DRAWS)])
"""Middles of equally likely parts of a normal, in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What is in a step of one attention rank; `deviation` is the standard deviation of `decode`.

    The images of `begun` requests go with the prompt tokens.
    """

    decode: float
    context: float
    deviation: float = 0.0
    prompt: float = 0.0
    before: float = 0.0
    pieces: float = 1.0
    begun: float = 0.0

    @property
    def running(self) -> FloatArray:
        """Numbers of decode sequences that are equally likely; one number where it does not vary."""
        if self.deviation <= 0.0:
            return np.array([self.decode])
        return np.maximum(self.decode + self.deviation * _DRAWS, 0.0)

    @property
    def tokens(self) -> FloatArray:
        """Tokens that pass through the linear maps, for each of the numbers of sequences."""
        return self.running + self.prompt * self.pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPricer:
    """Prices steps of one replica."""

    model: ModelGraph
    pool: Pool
    spans: ReplicaSpans
    costs: CostModel
    peaks_flops_per_s: Mapping[str, float]
    software: SoftwareProfile
    routing_skew: float = 1.0
    adapters: Adapters | None = None
    host_link: LinkSpec | None = None
    images: Images | None = None
    _known: dict[Batch, tuple[float, ...]] = field(default_factory=dict[Batch, tuple[float, ...]])
    _seen: list[float] = field(default_factory=list[float])
    _numbers: list[int] = field(default_factory=list[int])

    def stage_seconds(self, batch: Batch) -> tuple[float, ...]:
        """Return the seconds of a step on each stage."""
        if batch not in self._known:
            self._known[batch] = self._stages(batch)
        return self._known[batch]

    def slot_seconds(self, batch: Batch) -> float:
        """Return the seconds of the slowest stage."""
        return max(self.stage_seconds(batch))

    def _stages(self, batch: Batch) -> tuple[float, ...]:
        """Price every stage, equal ones once."""
        counts = self.pool.layers_per_stage
        known: dict[tuple[object, ...], float] = {}
        found: list[float] = []
        start = 0
        for stage, count in enumerate(counts):
            content = tuple(Counter(self._layer_numbers()[start : start + count]).items())
            key = (frozenset(content), stage == 0, stage == len(counts) - 1, self.host_link and stage)
            if key not in known:
                known[key] = self._stage(stage, batch)
            found.append(known[key])
            start += count
        return tuple(found)

    def _layer_numbers(self) -> tuple[int, ...]:
        """Return for each layer the number of the first layer equal to it."""
        if not self._numbers:
            first: dict[int, int] = {}
            seen: dict[Layer, int] = {}
            for index, layer in enumerate(self.model.layers):
                number = first.get(id(layer))
                if number is None:
                    number = seen.setdefault(layer, index)
                    first[id(layer)] = number
                self._numbers.append(number)
        return tuple(self._numbers)

    def _stage(self, stage: int, batch: Batch) -> float:
        counts = self.pool.layers_per_stage
        start = sum(counts[:stage])
        layers = Counter(self._layer_numbers()[start : start + counts[stage]])
        software = self.software
        total = software.per_step_s.value + software.per_layer_s.value * counts[stage]
        seconds = {n: self._sum(self._layer(self.model.layers[n], batch)) for n in layers}
        total += sum(count * seconds[number] for number, count in layers.items())
        total += self._streamed(
            stage, [seconds[n] for n in self._layer_numbers()[start:][: counts[stage]]], batch
        )
        if stage == 0:
            total += self._sum(self._embedding(batch))
            if self.images is not None and batch.begun > 0:
                total += batch.begun * self._image_seconds(self.images)
        if stage == len(counts) - 1:
            total += self._sum(self._head(batch)) + software.per_sequence_s.value * batch.decode
        if self.spans.next_stage is not None:
            total += self._sum(self._send(batch, self.spans.next_stage))
        fact = software.prompt_layer_s
        if fact is None or batch.prompt <= 0:
            return total
        kernels = sum(count * num_launches(self.model.layers[number]) for number, count in layers.items())
        exponent = software.launches_meet
        launches_s = fact.value * kernels / DENSE_LAUNCHES
        return (total**exponent + launches_s**exponent) ** (1.0 / exponent)

    def _image_seconds(self, images: Images) -> float:
        """Return what the vision tower takes for the images of one request."""
        if not self._seen:
            tp = self.pool.strategy.tp
            self._seen.append(self._sum(image_work(self.model, images, tp, self.spans.tensor, self._fmt)))
        return self._seen[0]

    def _streamed(self, stage: int, layer_s: list[float], batch: Batch) -> float:
        """Return what a stage waits for weights in host memory."""
        away = away_from(self.model, self.pool, stage) if self.host_link is not None else None
        if away is None:
            return 0.0

        def copy_s(num_bytes: FloatArray | float) -> float:
            return float(
                np.mean(self.costs.price(HostTransfer(num_bytes=num_bytes, link=self.host_link)).time_s)
            )

        if not away.only_asked:
            return waits_s(away, copy_s, layer_s)
        start, s = sum(self.pool.layers_per_stage[:stage]), self.pool.strategy
        tokens = batch.tokens * s.attention_dp * s.cp
        return copy_s(read_bytes(away, self.model.layers[start:][: len(layer_s)], tokens))

    def _sum(self, pieces: Iterator[Work]) -> float:
        exposed = 1.0 - self.software.overlap.value
        total = 0.0
        for work in pieces:
            seconds = float(np.mean(self.costs.price(work).time_s))
            if isinstance(work, Gemm | Attention | ExpertGemm):
                seconds *= self.software.kernel_scale
            total += seconds * (exposed if isinstance(work, Collective | TokenExchange) else 1.0)
        return total

    def _fmt(self, op: Linear | Experts) -> str:
        stored = self.model.weight_fmt(op, self.pool.weight_dtype)
        return executed_format(self.peaks_flops_per_s, stored) or stored

    def _layer(self, layer: Layer, batch: Batch) -> Iterator[Work]:
        yield from self._maps(layer.ops, batch.tokens)
        if self.adapters is not None:
            yield from self._thin_maps(layer.ops, batch.tokens, self.adapters)
        for op in layer.ops:
            if isinstance(op, AttentionCore) and not op.cross:
                yield from self._attention(op, batch)
            elif isinstance(op, StateCore):
                yield from self._state(op, batch)
            elif isinstance(op, Experts):
                yield from self._experts(op, batch.tokens)
        yield from self._elementwise(layer, batch.tokens)
        ends = {op.slot for op in layer.ops if isinstance(op, Linear) and op.shard == "row"}
        if self.pool.strategy.attention_dp == 1 and any(isinstance(op, Experts) for op in layer.ops):
            ends.discard("shared_expert")
        for _ in ends:
            yield self._hidden("all_reduce", batch.tokens, self.spans.tensor)

    def _thin_maps(self, ops: tuple[Op, ...], tokens: FloatArray, adapters: Adapters) -> Iterator[Work]:
        """Yield the factors of adapters beside every group of maps, and the reading of all in the step."""
        groups: dict[tuple[str, float], list[tuple[int, int]]] = {}
        for number, op in enumerate(ops):
            if isinstance(op, Linear) and op.per_token > 0:
                shape = linear_shape(op, self.pool.strategy.tp)
                groups.setdefault((op.gemm or str(number), op.per_token), []).append(shape)
        rank, held = float(adapters.rank), float(adapters.num_resident)
        different = held - held * ((held - 1.0) / held) ** tokens
        for (_, share), shapes in groups.items():
            count, width = float(len(shapes)), float(sum(columns for _, columns in shapes))
            rows = float(shapes[0][0])
            if tokens.max() > 0:
                yield Gemm(m=tokens * share, n=rank * count, k=rows, fmt="bf16")
                yield Gemm(m=tokens * share, n=width, k=rank, fmt="bf16")
            read = rank * (rows * count + width) * _HALF
            yield Stream(num_bytes=np.maximum(different - 1.0, 0.0) * read, num_kernels=0.0)

    def _maps(self, ops: tuple[Op, ...], tokens: FloatArray) -> Iterator[Work]:
        """Yield one GEMM per group of maps with the same input."""
        widths: dict[tuple[str, str, int, float], int] = {}
        for number, op in enumerate(ops):
            if isinstance(op, Linear) and op.per_token > 0 and tokens.max() > 0:
                rows, columns = linear_shape(op, self.pool.strategy.tp)
                key = (op.gemm or str(number), self._fmt(op), rows, op.per_token)
                widths[key] = widths.get(key, 0) + columns
        for (_, fmt, rows, share), columns in widths.items():
            yield Gemm(m=tokens * share, n=float(columns), k=float(rows), fmt=fmt)

    def _attention(self, core: AttentionCore, batch: Batch) -> Iterator[Work]:
        tp, split = self.pool.strategy.tp, self.pool.strategy.decode_cp
        heads = ceil(core.num_heads / tp)
        mla = core.kind == "mla"
        kv_heads = max(1, ceil(core.num_kv_heads / tp))
        fmt = cache_format(self.model, self.pool.kv_dtype)
        if batch.decode > 0:
            width = core.latent_dim + core.rope_dim if mla else core.head_dim
            v_width = core.latent_dim if mla else core.v_head_dim
            yield Attention(
                phase="decode",
                batch=batch.running,
                q_len=1.0,
                kv_len=max(1.0, _read(core, batch.context) / split),
                num_heads=float(heads * split),
                num_kv_heads=1.0 if mla else float(kv_heads),
                head_dim=float(width),
                v_head_dim=float(v_width),
                kv_fmt=fmt,
                kind="mla_absorbed" if mla else "gqa",
            )
            if split > 1:
                rows = batch.running * heads * split * _HALF
                span = self.spans.decode_context
                yield Collective(op="all_gather", num_bytes=rows * width, span=span)
                yield Collective(op="reduce_scatter", num_bytes=rows * v_width, span=span)
            if core.index_topk:
                yield Stream(num_bytes=batch.running * batch.context * core.index_dim * _HALF)
        if batch.prompt > 0:
            end = batch.before + batch.prompt
            reach = max(1.0, min(end, core.index_topk) if core.index_topk else end)
            query = max(1.0, batch.prompt / self.pool.strategy.cp)
            yield Attention(
                phase="prefill",
                batch=batch.pieces,
                q_len=min(query, reach),
                kv_len=reach,
                num_heads=float(heads),
                num_kv_heads=float(heads if mla else kv_heads),
                head_dim=float(core.head_dim),
                v_head_dim=float(core.v_head_dim),
                window=float(core.window),
                kv_fmt=fmt,
                kind="mla_expanded" if mla else "gqa",
            )
            if self.pool.strategy.cp > 1:
                row = entry_elements(core, tp) * _HALF
                yield Collective(op="all_gather", num_bytes=end * batch.pieces * row, span=self.spans.context)

    def _state(self, core: StateCore, batch: Batch) -> Iterator[Work]:
        elements = float(ceil(core.recurrent_elems / self.pool.strategy.tp))
        if batch.decode > 0:
            running = batch.running
            yield StateScan(phase="decode", num_tokens=running, batch=running, state_elems=elements)
        if batch.prompt > 0:
            yield StateScan(
                phase="prefill",
                num_tokens=batch.prompt * batch.pieces,
                batch=batch.pieces,
                state_elems=elements,
            )

    def _experts(self, op: Experts, tokens: FloatArray) -> Iterator[Work]:
        """Yield the experts and what carries tokens to them and back."""
        s = self.pool.strategy
        others = s.attention_dp * s.cp
        yield ExpertGemm(
            num_tokens=tokens * others,
            hidden=float(op.hidden),
            inter=float(op.inter),
            top_k=float(op.top_k),
            num_experts=float(op.num_experts + self.pool.limits.get("redundant_experts", 0)),
            tp=float(s.moe_tp),
            ep=float(s.ep),
            skew=self.routing_skew if s.ep > 1 else 1.0,
            gated=op.gated,
            fmt=self._fmt(op),
        )
        row = op.hidden * _HALF
        copies = min(op.top_k, s.ep) * s.moe_tp
        if others == 1:
            yield Collective(op="all_reduce", num_bytes=tokens * row, span=self.spans.stage)
        elif copies < others * s.tp:
            sent = op.hidden * (_HALF if number_format(self._fmt(op)).activation_bits >= 16 else 1.0)
            to = TokenExchange(
                half="dispatch",
                num_tokens=tokens / s.tp,
                top_k=float(min(op.top_k * s.moe_tp, op.num_experts)),
                row_bytes=sent,
                span=self.spans.stage,
            )
            yield to
            yield replace(to, half="combine", row_bytes=row)
        else:
            yield Collective(op="all_gather", num_bytes=tokens * others * row, span=self.spans.ranks)
            yield Collective(op="reduce_scatter", num_bytes=tokens * others * row, span=self.spans.ranks)
            if s.tp > 1:
                yield Collective(op="all_reduce", num_bytes=tokens * row, span=self.spans.tensor)

    def _elementwise(self, layer: Layer, tokens: FloatArray) -> Iterator[Work]:
        yield Stream(num_bytes=tokens * self.model.hidden_size * 8.0 * _HALF, num_kernels=2.0)
        width = sum(
            linear_shape(op, self.pool.strategy.tp)[1]
            for op in layer.ops
            if isinstance(op, Linear) and op.shard == "column" and op.slot in ("dense_ffn", "shared_expert")
        )
        if width:
            yield Stream(num_bytes=tokens * width * 1.5 * _HALF)

    def _embedding(self, batch: Batch) -> Iterator[Work]:
        yield Stream(num_bytes=batch.tokens * self.model.hidden_size * _HALF * 2.0)
        yield self._hidden("all_reduce", batch.tokens, self.spans.tensor)

    def _head(self, batch: Batch) -> Iterator[Work]:
        rows = np.maximum(1.0, batch.running)
        yield from self._maps(self.model.head, rows)
        logits = rows * self.model.vocab_size
        yield Collective(op="all_gather", num_bytes=logits * _HALF, span=self.spans.tensor)
        yield Stream(num_bytes=logits * 8.0, num_kernels=2.0)

    def _send(self, batch: Batch, span: Span) -> Iterator[Work]:
        part = batch.tokens / self.pool.strategy.tp
        yield self._hidden("p2p", part, span)
        yield self._hidden("all_gather", batch.tokens, self.spans.tensor)

    def _hidden(self, op: CollectiveOp, tokens: FloatArray, span: Span) -> Work:
        return Collective(op=op, num_bytes=tokens * self.model.hidden_size * _HALF, span=span)


def _read(core: AttentionCore, context: float) -> float:
    """Return the cache entries that one query reads."""
    kept = min(context, core.window) if core.window else context
    if core.compress_ratio:
        kept += context / core.compress_ratio
    return min(kept, core.index_topk) if core.index_topk else kept
