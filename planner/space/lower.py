"""The bridge: a layer under a strategy becomes pieces of work.

Work comes in three families because a step is their sum: what depends on the tokens of the step
(linear maps, experts, norms, collectives), what depends on the running sequences and their
caches (decode attention, states), and what depends on the prompts (prefill attention, scans).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cost_models.cost import FloatArray
from cost_models.formats import number_format
from cost_models.serving.requests import Requests
from cost_models.work import (
    Attention,
    Collective,
    CollectiveOp,
    ExpertGemm,
    Gemm,
    Span,
    StateScan,
    Stream,
    TokenExchange,
    Work,
)
from planner.ir.model_graph import (
    AttentionCore,
    Experts,
    Layer,
    Linear,
    ModelGraph,
    Op,
    StateCore,
    units_per_rank,
)
from planner.ir.serving import Adapters
from planner.ir.strategy import ServingStrategy

Family = Literal["tokens", "sequences", "prompts"]
HALF_BYTES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Lowering:
    """Everything besides the layer that decides its work.

    `executed` maps a stored format to the one the device runs. Spans are those of the tensor group,
    of the whole stage (experts), of the data-parallel ranks (stride tp) and of the context-parallel ranks.
    """

    model: ModelGraph
    strategy: ServingStrategy
    weight_fmt: str
    kv_fmt: str
    executed: Callable[[str], str]
    tensor_span: Span
    stage_span: Span
    rank_span: Span
    context_span: Span
    decode_context_span: Span
    routing_skew: float = 1.0
    adapters: Adapters | None = None

    def fmt(self, op: Linear | Experts) -> str:
        """Return the format in which a weight is multiplied."""
        return self.executed(self.model.weight_fmt(op, self.weight_fmt))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One piece of work and how often it is done per step (or per prompt).

    `is_shared` work follows the tokens of all attention ranks together, not those of the fullest one.
    """

    family: Family
    work: Work
    count: float | FloatArray = 1.0
    is_shared: bool = False

    @property
    def is_communication(self) -> bool:
        """Whether other work may hide it."""
        return isinstance(self.work, Collective | TokenExchange)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGrid:
    """The contents of steps to price: tokens, decode sequences, and prompts cut into chunks of a budget."""

    tokens: FloatArray
    sequences: FloatArray
    requests: Requests
    token_budget: float


def lower_layer(layer: Layer, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield the work of one layer on one device: what steps cost by their tokens, and what prompts cost."""
    yield from lower_steps(layer, how, grid)
    yield from lower_prompts(layer, how, grid)


def lower_prompts(layer: Layer, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield what a prompt costs by itself: attention over its chunks, and scans."""
    for op in layer.ops:
        if isinstance(op, AttentionCore) and not op.cross:
            if op.index_topk:
                yield _index_prompts(op, how, grid)
            yield from _lower_prefill(op, how, grid)
        elif isinstance(op, StateCore):
            yield _scan_prompts(op, how, grid)


def lower_steps(layer: Layer, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield what a step costs by its tokens and decode sequences.

    A row-split map ends in an all-reduce over the tensor group (two per transformer layer); experts bring
    their own exchange.
    """
    yield from lower_linears(layer.ops, how, grid.tokens)
    if how.adapters is not None:
        yield from _lower_adapters(layer.ops, how, how.adapters, grid.tokens)
    for op in layer.ops:
        if isinstance(op, AttentionCore):
            yield from _lower_attention(op, how, grid)
        elif isinstance(op, StateCore):
            yield _scan_sequences(op, how, grid)
        elif isinstance(op, Experts):
            yield from _lower_experts(op, how, grid)
    yield from _lower_norms(layer, how, grid.tokens)
    hidden_bytes = grid.tokens * how.model.hidden_size * HALF_BYTES
    has_experts = any(isinstance(op, Experts) for op in layer.ops)
    rows = {op.slot for op in layer.ops if isinstance(op, Linear) and op.shard == "row"}
    if has_experts and how.strategy.attention_dp == 1:
        rows.discard("shared_expert")
    for _ in rows:
        yield _collective("all_reduce", hidden_bytes, how.tensor_span)


def lower_linears(ops: tuple[Op, ...], how: Lowering, tokens: FloatArray) -> Iterator[Piece]:
    """Yield the GEMMs of linear maps; maps that share an input run as one."""
    tp = how.strategy.tp
    fused: dict[tuple[str, str, int, float], int] = {}
    for index, op in enumerate(ops):
        if not isinstance(op, Linear) or op.per_token <= 0.0:
            continue
        k, n = op.shape_per_rank(tp)
        key = (op.gemm or f"#{index}", how.fmt(op), k, op.per_token)
        fused[key] = fused.get(key, 0) + n
    for (_, fmt, k, share), n in fused.items():
        yield Piece(family="tokens", work=Gemm(m=tokens * share, n=float(n), k=float(k), fmt=fmt))


def _lower_adapters(
    ops: tuple[Op, ...], how: Lowering, adapters: Adapters, tokens: FloatArray
) -> Iterator[Piece]:
    """Yield what adapters add: tokens through two thin products beside every map, each with its own adapter.

    Maps that share an input run as one pair of kernels (down to the rank, up to the outputs). A step reads
    the factors of every adapter in it: of N that are asked for alike, m tokens of different requests meet
    N (1 - (1 - 1/N)^m). The first one's are part of the products; tokens of one prompt are counted as if
    they were of many, which only shows in steps that compute far longer than they read.

    Source: L. Chen et al., Punica, 2023 (grouped products of a batch of adapters).
    """
    tp, rank = how.strategy.tp, float(adapters.rank)
    fused: dict[tuple[str, float], list[Linear]] = {}
    for index, op in enumerate(ops):
        if isinstance(op, Linear) and op.per_token > 0.0:
            fused.setdefault((op.gemm or f"#{index}", op.per_token), []).append(op)
    num = float(adapters.num_resident)
    met = num * (1.0 - (1.0 - 1.0 / num) ** tokens)
    for (_, share), maps in fused.items():
        rows, outputs = tokens * share, sum(float(op.shape_per_rank(tp)[1]) for op in maps)
        inputs = float(maps[0].shape_per_rank(tp)[0])
        yield Piece(family="tokens", work=Gemm(m=rows, n=rank * len(maps), k=inputs, fmt="bf16"))
        yield Piece(family="tokens", work=Gemm(m=rows, n=outputs, k=rank, fmt="bf16"))
        elems = sum(adapters.elems_per_rank(op, tp) for op in maps)
        others = np.maximum(met - 1.0, 0.0) * elems * HALF_BYTES
        yield Piece(family="tokens", work=Stream(num_bytes=others, num_kernels=0.0))


def _lower_attention(core: AttentionCore, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    if core.cross:
        return
    strategy = how.strategy
    context = _mean_context(core, grid.requests)
    heads, kv_heads, width, v_width = _heads(core, strategy.tp, absorbed=core.kind == "mla")
    split = strategy.decode_cp
    yield Piece(
        family="sequences",
        work=Attention(
            phase="decode",
            batch=grid.sequences,
            q_len=1.0,
            kv_len=max(1.0, context / split),
            num_heads=float(heads * split),
            num_kv_heads=float(kv_heads),
            head_dim=float(width),
            v_head_dim=float(v_width),
            kv_fmt=how.kv_fmt,
            kind="mla_absorbed" if core.kind == "mla" else "gqa",
        ),
    )
    if core.index_topk:
        yield _index_sequences(core, grid)
    if split > 1:
        rows_bytes = grid.sequences * heads * split * HALF_BYTES
        yield _collective("all_gather", rows_bytes * width, how.decode_context_span, family="sequences")
        yield _collective("reduce_scatter", rows_bytes * v_width, how.decode_context_span, family="sequences")


def _lower_prefill(core: AttentionCore, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield prefill attention: a prompt in n equal chunks, each at the mean cache length of the chunks.

    Prompts shorter than the budget share a step, and one kernel does all of them.
    """
    cp = float(how.strategy.prefill_cp)
    new = grid.requests.new_tokens
    num_chunks = np.maximum(np.ceil(new / grid.token_budget - 1e-9), 1.0)
    together = _prompts_per_step(grid)
    q_len = new / num_chunks
    end = grid.requests.input_tokens - new + q_len * (num_chunks + 1.0) / 2.0
    heads, kv_heads, width, v_width = _heads(core, how.strategy.tp, absorbed=False)
    reach = np.minimum(end, float(core.index_topk)) if core.index_topk else end
    window = float(core.window)
    if core.compress_ratio:
        reach, window = np.minimum(reach, core.window) + reach / core.compress_ratio, 0.0
    yield Piece(
        family="prompts",
        work=Attention(
            phase="prefill",
            batch=together,
            q_len=np.minimum(np.maximum(q_len / cp, 1.0), np.maximum(reach, 1.0)),
            kv_len=np.maximum(reach, 1.0),
            num_heads=float(heads),
            num_kv_heads=float(kv_heads),
            head_dim=float(width),
            v_head_dim=float(v_width),
            window=window,
            kv_fmt=how.kv_fmt,
            kind="mla_expanded" if core.kind == "mla" else "gqa",
        ),
        count=num_chunks / together,
    )
    if how.strategy.prefill_cp > 1:
        row = core.cache_elems_per_token_per_rank(how.strategy.tp) * HALF_BYTES
        yield _collective("all_gather", end * row, how.context_span, family="prompts", count=num_chunks)


def _prompts_per_step(grid: StepGrid) -> FloatArray:
    """Return how many prompts of each length fill a step of the budget; one if a prompt fills it alone."""
    return np.maximum(grid.token_budget / grid.requests.new_tokens, 1.0)


def _index_sequences(core: AttentionCore, grid: StepGrid) -> Piece:
    """Return the sparse indexer of decode: every query scores every index key of its sequence."""
    context, _ = grid.requests.context_moments()
    entries = context / core.compress_ratio if core.compress_ratio else context
    return Piece(
        family="sequences", work=Stream(num_bytes=grid.sequences * entries * core.index_dim * HALF_BYTES)
    )


def _index_prompts(core: AttentionCore, how: Lowering, grid: StepGrid) -> Piece:
    """Return the sparse indexer of a prompt."""
    new = grid.requests.new_tokens
    return Piece(
        family="prompts",
        work=Attention(
            phase="prefill",
            batch=1.0,
            q_len=np.maximum(new / how.strategy.prefill_cp, 1.0),
            kv_len=grid.requests.input_tokens,
            num_heads=float(max(1, core.index_heads)),
            num_kv_heads=1.0,
            head_dim=float(core.index_dim),
            v_head_dim=0.0,
        ),
    )


def _mean_context(core: AttentionCore, requests: Requests) -> float:
    """Return the mean cache entries that one decode query of this layer reads."""
    full, _ = requests.context_moments()
    if core.compress_ratio:
        entries = requests.context_moments(float(core.window))[0] + full / core.compress_ratio
    else:
        entries = requests.context_moments(float(core.window))[0]
    return min(entries, float(core.index_topk)) if core.index_topk else entries


def _heads(core: AttentionCore, tp: int, *, absorbed: bool) -> tuple[int, int, int, int]:
    """Return heads, KV heads, key width and value width on one rank."""
    heads = units_per_rank(core.num_heads, tp)
    if core.kind == "gqa":
        return heads, core.kv_heads_per_rank(tp), core.head_dim, core.v_head_dim
    if absorbed:
        return heads, 1, core.latent_dim + core.rope_dim, core.latent_dim
    return heads, heads, core.head_dim, core.v_head_dim


def _scan_sequences(core: StateCore, how: Lowering, grid: StepGrid) -> Piece:
    return Piece(
        family="sequences",
        work=StateScan(
            phase="decode",
            num_tokens=grid.sequences,
            batch=grid.sequences,
            state_elems=float(core.recurrent_elems_per_rank(how.strategy.tp)),
        ),
    )


def _scan_prompts(core: StateCore, how: Lowering, grid: StepGrid) -> Piece:
    new = grid.requests.new_tokens
    num_chunks = np.maximum(np.ceil(new / grid.token_budget - 1e-9), 1.0)
    together = _prompts_per_step(grid)
    return Piece(
        family="prompts",
        work=StateScan(
            phase="prefill",
            num_tokens=new / num_chunks * together,
            batch=together,
            state_elems=float(core.recurrent_elems_per_rank(how.strategy.tp)),
        ),
        count=num_chunks / together,
    )


def _lower_experts(op: Experts, how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield the routed experts and the exchange of tokens around them.

    Tokens of all attention ranks meet. Without attention data parallelism every rank already holds all
    tokens and one all-reduce over the stage collects the parts. With it, tokens are dispatched to their
    experts and combined again, or gathered and scattered where that moves less.
    """
    strategy = how.strategy
    num_ranks = strategy.attention_dp * strategy.prefill_cp
    tokens = grid.tokens * num_ranks
    experts = ExpertGemm(
        num_tokens=tokens,
        hidden=float(op.hidden),
        inter=float(op.inter),
        top_k=float(op.top_k),
        num_experts=float(op.num_experts + strategy.redundant_experts),
        tp=float(strategy.moe_tp),
        ep=float(strategy.ep),
        skew=how.routing_skew if strategy.ep > 1 else 1.0,
        gated=op.gated,
        fmt=how.fmt(op),
    )
    yield Piece(family="tokens", work=experts, is_shared=num_ranks > 1)
    row_bytes = op.hidden * HALF_BYTES
    if num_ranks == 1:
        yield _collective("all_reduce", grid.tokens * row_bytes, how.stage_span)
        return
    for work in _exchange(op, how, grid.tokens):
        yield Piece(family="tokens", work=work, is_shared=True)
    if strategy.tp > 1 and not exchanges_copies(op, strategy):
        yield _collective("all_reduce", grid.tokens * row_bytes, how.tensor_span)


def exchanges_copies(op: Experts, strategy: ServingStrategy) -> bool:
    """Return whether sending tokens to their experts moves less than gathering all tokens everywhere."""
    copies = min(op.top_k, strategy.ep) * strategy.moe_tp
    return copies < strategy.attention_dp * strategy.prefill_cp * strategy.tp


def _exchange(op: Experts, how: Lowering, tokens: FloatArray) -> Iterator[Work]:
    """Yield what carries tokens to their experts and back."""
    strategy, row_bytes = how.strategy, op.hidden * HALF_BYTES
    if exchanges_copies(op, strategy):
        for half in ("dispatch", "combine"):
            yield TokenExchange(
                half=half,
                num_tokens=tokens / strategy.tp,
                top_k=float(min(op.top_k * strategy.moe_tp, op.num_experts)),
                row_bytes=row_bytes if half == "combine" else dispatched_bytes(op.hidden, how.fmt(op)),
                span=how.stage_span,
            )
        return
    everything = tokens * (strategy.attention_dp * strategy.prefill_cp) * row_bytes
    yield Collective(op="all_gather", num_bytes=everything, span=how.rank_span)
    yield Collective(op="reduce_scatter", num_bytes=everything, span=how.rank_span)


def dispatched_bytes(hidden: int, fmt: str) -> float:
    """Return bytes of a token on its way to experts that compute in `fmt`: at least one per element.

    Source: dispatch formats of DeepEP and of the NVLink all-to-all, 8 bit where experts take 8 bit or less.
    """
    return hidden * (HALF_BYTES if number_format(fmt).activation_bits >= 16 else 1.0)


def _lower_norms(layer: Layer, how: Lowering, tokens: FloatArray) -> Iterator[Piece]:
    """Yield memory-bound kernels: two norms with residual (read two, write two rows each) and activations."""
    hidden = how.model.hidden_size
    yield Piece(family="tokens", work=Stream(num_bytes=tokens * hidden * 8.0 * HALF_BYTES, num_kernels=2.0))
    width = sum(
        op.shape_per_rank(how.strategy.tp)[1]
        for op in layer.ops
        if isinstance(op, Linear) and op.slot in ("dense_ffn", "shared_expert") and op.shard == "column"
    )
    if width:
        yield Piece(family="tokens", work=Stream(num_bytes=tokens * width * 1.5 * HALF_BYTES))


def lower_embedding(how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield the work of the first stage's lookup: gather rows, then sum over the vocabulary's ranks."""
    row_bytes = how.model.hidden_size * HALF_BYTES
    yield Piece(family="tokens", work=Stream(num_bytes=grid.tokens * row_bytes * 2.0))
    yield _collective("all_reduce", grid.tokens * row_bytes, how.tensor_span)


def lower_head(how: Lowering, grid: StepGrid) -> Iterator[Piece]:
    """Yield the work of the last stage's logits and sampling, for the sequences that get a token."""
    emitting = np.maximum(grid.sequences, 1.0)
    for piece in lower_linears(how.model.head, how, emitting):
        yield Piece(family="sequences", work=piece.work)
    vocab_bytes = emitting * how.model.vocab_size
    yield _collective("all_gather", vocab_bytes * HALF_BYTES, how.tensor_span, family="sequences")
    yield Piece(family="sequences", work=Stream(num_bytes=vocab_bytes * 8.0, num_kernels=2.0))


def lower_stage_send(how: Lowering, grid: StepGrid, between: Span) -> Iterator[Piece]:
    """Yield what a stage sends to the next: each tensor rank its slice, gathered again on arrival."""
    row_bytes = how.model.hidden_size * HALF_BYTES
    yield _collective("p2p", grid.tokens * row_bytes / how.strategy.tp, between)
    yield _collective("all_gather", grid.tokens * row_bytes, how.tensor_span)


def _collective(
    op: CollectiveOp,
    num_bytes: FloatArray,
    span: Span,
    *,
    family: Family = "tokens",
    count: float | FloatArray = 1.0,
) -> Piece:
    return Piece(family=family, work=Collective(op=op, num_bytes=num_bytes, span=span), count=count)
