"""A cost model that asks AIConfigurator for the time of every operation that it has a table for.

What it has none for (transfers of caches, host copies, recurrent mixers, sparse indexers, groups that skip
devices, formats and shapes without rows) is priced by the project's own model of the same device; each such
case is kept with its reason, and its provenance is never better than analytical.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cost_models.aiconfigurator.query import Answer, MissingDataError, OperationTimes, Point, Query
from cost_models.base import CostModel
from cost_models.cost import Cost, FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import number_format
from cost_models.work import Attention, Collective, ExpertGemm, Gemm, Span, Stream, Work
from hardware_profiles.provenance import Provenance

GEMM_FORMATS = {
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16": "int4_wo",
    "w8a16": "int8_wo",
}
EXPERT_FORMATS = {**GEMM_FORMATS, "mxfp4": "w4a16_mxfp4", "mxfp4_mxfp8": "w4a8_mxfp4_mxfp8"}
CACHE_FORMATS = {"bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8", "int8": "int8"}
QUERY_FORMATS = {"bf16": "bfloat16", "fp16": "bfloat16", "fp8": "fp8"}
NCCL_OPERATIONS = {"all_gather": "all_gather", "reduce_scatter": "reduce_scatter", "all_to_all": "alltoall"}
BALANCED, SKEWED = "balanced", ("power_law_1.2", "power_law_1.01")
"""Its routings: even, and the two skews that it has rows for (the first is what most of its models use)."""
MLA_SHAPES = {("mla_absorbed", 576, 512), ("mla_expanded", 192, 128)}
"""Key and value widths of the latent attention in its tables (DeepSeek-V3's)."""
SIGMA_LOG = {"gemm": 0.063, "attention": 0.037}
"""Spread of measured over predicted: the medians of its own leave-one-out errors (GEMM 3.6-4.9 %, attention
2-3 %) over 0.6745. Source: AIConfigurator, docs/design/perf_interp_design.md, 2026-08."""
OTHER_SIGMA_LOG = 0.076
"""The same from its 90 % point for all operations (10-15 %) over 1.645."""
BORROWED_SIGMA_LOG = 0.18
"""The same where an answer is extrapolated or borrowed: its median of 9-15 % far outside, over 0.6745."""
_ELEMENT_BYTES = 2.0
_ROW = 1024
"""Elements per token in queries of communication, which only know whole tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationCosts:
    """Prices work with AIConfigurator's times; `own` prices what it has no table for.

    `fallbacks` collects what `own` had to price, and why.
    """

    tables: OperationTimes
    own: CostModel
    facts: DeviceFacts
    fallbacks: dict[str, str] = field(default_factory=dict[str, str])
    _handlers: dict[type, Callable[..., Cost]] = field(default_factory=dict[type, Callable[..., Cost]])

    def __post_init__(self) -> None:
        """Fill the table from kinds of work to what asks for them."""
        self._handlers.update(
            {
                Gemm: self._gemm,
                Attention: self._attention,
                ExpertGemm: self._experts,
                Stream: self._stream,
                Collective: self._collective,
            }
        )

    def price(self, work: Work) -> Cost:
        """Return the cost of `work`, elementwise over its broadcast fields.

        Raises
        ------
        UnsupportedFormatError
            If the device has no peak for the work's format.
        ValueError
            If the project's own model, asked instead, refuses the work.
        """
        handler = self._handlers.get(type(work))
        try:
            if handler is None:
                raise MissingDataError("not one of its operations")
            return handler(work)
        except MissingDataError as error:
            return self._instead(work, str(error))

    def remarks(self) -> tuple[str, ...]:
        """Return where the times come from, and what was priced otherwise and why."""
        found = [f"operation times are those of {self.tables.label}"]
        found.extend(
            f"{what} priced by Newel's own model: {why}" for what, why in sorted(self.fallbacks.items())
        )
        return tuple(found)

    def _instead(self, work: Work, why: str) -> Cost:
        cost = self.own.price(work)
        self.fallbacks.setdefault(_described(work), why)
        return Cost(
            time_s=cost.time_s,
            variance_s2=cost.variance_s2,
            provenance=max(cost.provenance, Provenance.ANALYTICAL),
            origin=f"own model, as AIConfigurator has none: {why}",
        )

    def _gemm(self, work: Gemm) -> Cost:
        name = number_format(work.fmt).name
        self.facts.peak(number_format(work.fmt))
        tokens = np.asarray(work.m, dtype=np.float64)
        shape = (_whole(work.n), _whole(work.k), _listed(GEMM_FORMATS, name))
        return self._token_major(Query(family="gemm", shape=shape), tokens, "gemm")

    def _experts(self, work: ExpertGemm) -> Cost:
        name = number_format(work.fmt).name
        self.facts.peak(number_format(work.fmt))
        tokens = np.asarray(work.num_tokens, dtype=np.float64)
        head = tuple(
            _whole(v) for v in (work.hidden, work.inter, work.top_k, work.num_experts, work.tp, work.ep)
        )
        routings = (BALANCED,) if float(np.max(work.skew)) <= 1.0 else SKEWED
        missing = ""
        for routing in routings:
            shape = (*head, _listed(EXPERT_FORMATS, name), routing, 1, True, work.gated)
            try:
                return self._token_major(Query(family="moe", shape=shape), tokens, "moe")
            except MissingDataError as error:
                missing = str(error)
        raise MissingDataError(missing)

    def _stream(self, work: Stream) -> Cost:
        """Price moved bytes: AIConfigurator's time is a launch plus bytes over a fixed bandwidth."""
        query = Query(family="memory", shape=(_ROW // 2, _ROW // 2, 0.8))
        few, many = self.tables.times(query, [(1024, 1, 0), (1024 * 1024, 1, 0)]).time_s
        row_bytes = _ROW * _ELEMENT_BYTES
        per_byte = (many - few) / ((1024 * 1024 - 1024) * row_bytes)
        launch_s = max(0.0, few - per_byte * 1024 * row_bytes)
        num_bytes, kernels = np.broadcast_arrays(work.num_bytes, work.num_kernels)
        time_s = np.asarray(num_bytes * per_byte + kernels * launch_s, dtype=np.float64)
        return self._cost(Answer(time_s=time_s, measured=False), "memory")

    def _attention(self, work: Attention) -> Cost:
        fields = np.broadcast_arrays(work.batch, work.q_len, work.kv_len)
        batch, q_len, kv_len = (np.asarray(f, dtype=np.float64) for f in fields)
        query = self._attention_query(work)
        length, prefix = np.maximum(np.rint(kv_len), 1.0), np.zeros_like(kv_len)
        if work.phase == "prefill":
            length = np.maximum(np.rint(q_len), 1.0)
            prefix = np.maximum(np.rint(kv_len) - length, 0.0)
        low = np.floor(np.maximum(batch, 1.0))
        share = np.where(batch >= 1.0, batch - low, 0.0)
        first = self._points(query, low, length, prefix)
        second = self._points(query, low + (share > 0.0), length, prefix)
        time_s = np.where(batch > 0.0, first.time_s + share * (second.time_s - first.time_s), 0.0)
        return self._cost(Answer(time_s=time_s, measured=first.measured and second.measured), "attention")

    def _attention_query(self, work: Attention) -> Query:
        heads, width = _whole(work.num_heads), (_whole(work.head_dim), _whole(work.v_head_dim))
        cache = _listed(CACHE_FORMATS, number_format(work.kv_fmt).name)
        asked = _listed(QUERY_FORMATS, number_format(work.q_fmt).name)
        if work.kind != "gqa":
            if (work.kind, *width) not in MLA_SHAPES:
                raise MissingDataError(
                    f"its latent attention has other widths than {width[0]} and {width[1]}"
                )
            if work.kind == "mla_expanded":
                return Query(family="context_mla", shape=(heads, cache, asked))
            return Query(family="generation_mla", shape=(heads, cache))
        if width[0] != width[1]:
            raise MissingDataError("its attention has keys and values of one width")
        kv_heads, window = _whole(work.num_kv_heads), _whole(work.window)
        if work.phase == "prefill":
            shape = (heads, kv_heads, cache, asked, window, width[0])
            return Query(family="context_attention", shape=shape)
        return Query(family="generation_attention", shape=(heads, kv_heads, cache, window, width[0]))

    def _collective(self, work: Collective) -> Cost:
        num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
        ranks = work.span.num_ranks
        if ranks == 1:
            return Cost(time_s=num_bytes * 0.0, variance_s2=num_bytes * 0.0, provenance=Provenance.MEASURED)
        tokens = num_bytes / (_ROW * _ELEMENT_BYTES)
        if work.op == "p2p":
            if not any(link.is_network for link in work.span.links):
                raise MissingDataError("it times messages between devices over the network only")
            return self._token_major(Query(family="p2p", shape=(_ROW, 2)), tokens, "collective")
        self._known_span(work.span)
        if work.op == "all_reduce":
            return self._token_major(Query(family="all_reduce", shape=(_ROW, ranks)), tokens, "collective")
        if work.op not in NCCL_OPERATIONS:
            raise MissingDataError("not one of its collectives")
        shape = (NCCL_OPERATIONS[work.op], _ROW, ranks, "half")
        return self._token_major(Query(family="nccl", shape=shape), tokens, "collective")

    def _known_span(self, span: Span) -> None:
        """Refuse groups that its tables cannot mean: they hold consecutive devices of full nodes."""
        node, ranks = self.tables.devices_per_node, span.num_ranks
        crosses = any(
            link.is_network and count > 1
            for link, count in zip(span.links, span.ranks_per_level, strict=True)
        )
        if crosses and ranks <= node:
            raise MissingDataError("its groups are consecutive devices, this one is spread over nodes")
        if not crosses and ranks > node:
            raise MissingDataError(f"its nodes hold {node} devices")

    def _token_major(self, query: Query, tokens: FloatArray, kind: str) -> Cost:
        """Price an operation by tokens: whole ones, at least one, linear in between; none take no time."""
        low = np.floor(np.maximum(tokens, 1.0))
        share = np.maximum(tokens, 1.0) - low
        ones = np.ones_like(low)
        first = self._points(query, low, ones, ones * 0.0)
        second = self._points(query, low + (share > 0.0), ones, ones * 0.0)
        time_s = np.where(tokens > 0.0, first.time_s + share * (second.time_s - first.time_s), 0.0)
        return self._cost(Answer(time_s=time_s, measured=first.measured and second.measured), kind)

    def _points(self, query: Query, counts: FloatArray, lengths: FloatArray, prefixes: FloatArray) -> Answer:
        points: list[Point] = [
            (int(count), int(length), int(prefix))
            for count, length, prefix in zip(counts.ravel(), lengths.ravel(), prefixes.ravel(), strict=True)
        ]
        answer = self.tables.times(query, points)
        return Answer(time_s=answer.time_s.reshape(counts.shape), measured=answer.measured)

    def _cost(self, answer: Answer, kind: str) -> Cost:
        sigma = SIGMA_LOG.get(kind, OTHER_SIGMA_LOG) if answer.measured else BORROWED_SIGMA_LOG
        return Cost(
            time_s=answer.time_s,
            variance_s2=np.square(answer.time_s) * np.expm1(sigma**2),
            provenance=Provenance.CALIBRATED if answer.measured else Provenance.ANALYTICAL,
            origin=self.tables.label,
        )


def _whole(value: float | FloatArray) -> int:
    number = np.asarray(value, dtype=np.float64)
    if number.size != 1 or float(number) != float(np.rint(number)):
        raise MissingDataError("its shapes are whole numbers, one per query")
    return int(number)


def _listed(names: dict[str, str], name: str) -> str:
    if name not in names:
        raise MissingDataError(f"it has no tables for {name}")
    return names[name]


def _described(work: Work) -> str:
    """Return a kind of work in words, fine enough to tell apart what is missing."""
    if isinstance(work, Attention):
        return f"{work.phase} attention ({work.kind}, cache {work.kv_fmt})"
    if isinstance(work, Collective):
        return f"{work.op} over {work.span.num_ranks}"
    if isinstance(work, Gemm | ExpertGemm):
        return f"{type(work).__name__} in {work.fmt}"
    return type(work).__name__
