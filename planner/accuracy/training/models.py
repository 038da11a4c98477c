"""A model graph from the shape that a row of a training table states."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from itertools import product

from planner.accuracy.training.rows import RowError, TrainingRow
from planner.ir.model_graph import AttentionCore, Experts, Layer, Linear, ModelGraph, Op, Small

_LATENT = {"q_rank": 1536, "kv_rank": 512, "rope": 64, "nope": 128, "value": 128}
"""Latent attention of DeepSeek-V2, V3 and Kimi-K2 (their config.json); rows state only the head count."""
_GATED_NAMES = re.compile(r"llama|qwen|mistral|mixtral|deepseek|kimi|gemma|gpt-oss|glm|yi-|grok")
_PLAIN_NAMES = re.compile(r"gpt|bloom|mpt|opt|turing|mt-nlg|t5|bert|megatron")
_WINDOWED_NAMES = {"gpt-oss": 128}
"""Models whose layers alternate between a sliding window of so many tokens and all of them (config.json)."""
_BIASED_NAMES = ("gpt-oss",)
"""Models whose experts have biases (config.json)."""
_PREDICTS_MORE = {"deepseek-v3": 61}
"""Models trained with one layer that predicts a further token, and their layers: what is cut down to fewer
for a benchmark leaves it out (DeepSeek-V3 report, section 2.2)."""
_DENSE_FIRST = {"deepseek-v3": 3, "deepseek-r1": 3, "deepseek-v2": 1, "kimi": 1}
_DEFAULT_VOCABULARY = 51200
_MOST_DENSE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _FeedForward:
    dense: int
    expert: int = 0
    num_experts: int = 0
    top_k: int = 0
    num_shared: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """What a row does not say: a gate, a head with its own table, dense layers before sparse ones.

    `num_dense` is None where the name of the model decides.
    """

    gated: bool
    tied: bool
    num_dense: int | None = None


def model_of(row: TrainingRow) -> ModelGraph:
    """Return the model that a row's shape describes.

    Whether the feed-forward block has a gate and whether the head is tied is taken from the stated number of
    parameters where that decides it, else from the name of the model.

    Raises
    ------
    RowError
        If layers, hidden size, heads or feed-forward width are unknown or do not fit together.
    """
    name = row.text("model").lower()
    if _PLAIN_NAMES.search(name) and not _GATED_NAMES.search(name):
        first = _Form(gated=False, tied=True)
    else:
        first = _Form(gated=True, tied=False)
    return _as_trained(row, _of_stated_size(row, first))


def _of_stated_size(row: TrainingRow, first: _Form) -> ModelGraph:
    """Return the graph of the form `first`, or of the one that the stated number of parameters demands."""
    stated = _float(row.text("params_B"))
    graph = _graph(row, first)
    if stated is None or abs(graph.num_params / (stated * 1e9) - 1.0) < 0.02:
        return graph
    gates, ties = (first.gated, not first.gated), (first.tied, not first.tied)
    dense = (None, *range(_MOST_DENSE + 1)) if _feed_forward(row, graph.hidden_size).num_experts else (None,)
    forms = [_Form(gated=g, tied=t, num_dense=d) for g, t, d in product(gates, ties, dense)]
    graphs = [_graph(row, form) for form in forms]
    errors = [abs(g.num_params / (stated * 1e9) - 1.0) for g in graphs]
    # A shape that misses the stated size by as much either way keeps what the name says.
    best = min(range(len(graphs)), key=errors.__getitem__)
    return graphs[best] if errors[best] < errors[0] - 0.03 else graphs[0]


def _as_trained(row: TrainingRow, graph: ModelGraph) -> ModelGraph:
    """Return the graph with the layers that training alone runs: those that predict further tokens.

    Such a layer joins its two inputs, passes one block and the shared head (DeepSeek-V3 report, section 2.2).
    """
    name = row.text("model").lower()
    whole = next((layers for key, layers in _PREDICTS_MORE.items() if key in name), None)
    if len(graph.layers) != whole or re.search(r"(w/o|without|no) mtp", row.words):
        return graph
    hidden = graph.hidden_size
    joined = _map("eh_proj", 2 * hidden, hidden, "replicated", slot="other")
    ops = (
        joined,
        *graph.layers[-1].ops,
        *(replace(op, tied=True) for op in graph.head if isinstance(op, Linear)),
    )
    further = Layer(kind="mtp+attention+moe", ops=ops)
    return replace(graph, layers=(*graph.layers, further))


def assumptions_of(row: TrainingRow) -> tuple[str, ...]:
    """Return what of the model the row leaves open and `model_of` takes for granted."""
    found: list[str] = []
    if _whole(row, "heads") is None:
        found.append("heads not stated: one per 128 of the hidden size taken")
    if _whole(row, "vocab") is None:
        found.append(f"vocab not stated: {_DEFAULT_VOCABULARY} taken")
    if not row.text("ffn"):
        found.append("ffn not stated: four times the hidden size taken")
    return tuple(found)


def _float(text: str) -> float | None:
    try:
        value = float(text) if text else math.nan
        return value if math.isfinite(value) else None
    except ValueError:
        return None


def _whole(row: TrainingRow, name: str) -> int | None:
    value = _float(row.text(name))
    if value is None or not 0 < value <= 1 << 31 or value != int(value):
        return None
    return int(value)


def _needed(row: TrainingRow, name: str) -> int:
    value = _whole(row, name)
    if value is None:
        raise RowError(f"the model's {name} is unknown")
    return value


def _graph(row: TrainingRow, form: _Form) -> ModelGraph:
    hidden, num_layers = _needed(row, "hidden"), _needed(row, "layers")
    if num_layers > 10_000:
        raise RowError("more than 10000 layers")
    ffn = _feed_forward(row, hidden)
    attention = _attention(row, hidden)
    norms: tuple[Op, ...] = (Small(name="norms", num_params=2 * hidden * (1 if form.gated else 2)),)
    dense = Layer(kind="attention+mlp", ops=(*norms, *attention, *_dense(hidden, ffn.dense, form.gated)))
    layers = [dense] * num_layers
    if ffn.num_experts:
        sparse = Layer(kind="attention+moe", ops=(*norms, *attention, *_sparse(row, hidden, ffn)))
        name = row.text("model").lower()
        named = next((n for key, n in _DENSE_FIRST.items() if key in name), 0)
        num_dense = (named if form.num_dense is None else form.num_dense) if ffn.dense else 0
        layers = [dense] * min(num_dense, num_layers) + [sparse] * max(num_layers - num_dense, 0)
    layers = _windowed(row, layers)
    vocab = _whole(row, "vocab") or _DEFAULT_VOCABULARY
    table = Linear(
        name="embedding",
        in_features=vocab,
        out_features=hidden,
        shard="vocab",
        slot="embedding",
        per_token=0.0,
    )
    head = Linear(
        name="head", in_features=hidden, out_features=vocab, shard="vocab", slot="head", tied=form.tied
    )
    return ModelGraph(
        name=row.text("model") or "model",
        family="row",
        architecture="row",
        vocab_size=vocab,
        hidden_size=hidden,
        tied_embeddings=form.tied,
        max_position=row.seq_len or 0,
        layers=tuple(layers),
        embedding=(table,),
        head=(head,),
    )


def _windowed(row: TrainingRow, layers: list[Layer]) -> list[Layer]:
    """Return the layers with the windows of the model's family: every other one, the first included."""
    name = row.text("model").lower()
    window = next((tokens for key, tokens in _WINDOWED_NAMES.items() if key in name), 0)
    if not window:
        return layers

    def narrow(op: Op) -> Op:
        return replace(op, window=window) if isinstance(op, AttentionCore) else op

    return [
        replace(layer, ops=tuple(narrow(op) for op in layer.ops)) if index % 2 == 0 else layer
        for index, layer in enumerate(layers)
    ]


def _feed_forward(row: TrainingRow, hidden: int) -> _FeedForward:
    """Read ``28672``, ``768 expert x128 top-8``, or such text with dense and shared parts."""
    text = row.text("ffn").lower()
    if not text:
        return _FeedForward(dense=4 * hidden)
    if text.isdigit():
        return _FeedForward(dense=int(text))
    expert = re.search(r"(\d+)\s*(?:expert|/expert|per expert|moe)", text)
    number = re.search(r"x\s*\(?\s*(\d+)", text) or re.search(r"(\d+)\s*(?:experts|routed)", text)
    top_k = re.search(r"top[-_ ]?k?\s*=?\s*(\d+)", text)
    if not (expert and number and top_k):
        raise RowError(f"cannot read the feed-forward width {text[:60]!r}")
    dense = re.search(r"(\d+)\s*dense", text)
    shared = re.search(r"(\d+)\s*shared", text)
    return _FeedForward(
        dense=int(dense.group(1)) if dense else 0,
        expert=int(expert.group(1)),
        num_experts=int(number.group(1)),
        top_k=int(top_k.group(1)),
        num_shared=int(shared.group(1)) if shared else 0,
    )


def _attention(row: TrainingRow, hidden: int) -> tuple[Op, ...]:
    kv_text = row.text("kv_heads").lower()
    heads = _whole(row, "heads")
    if heads is None:
        if kv_text or hidden % 128:
            raise RowError("the number of attention heads is unknown")
        heads = hidden // 128
    if kv_text == "mla":
        return _latent(hidden, heads)
    kv_heads = _whole(row, "kv_heads") or heads
    head_dim = _whole(row, "head_dim") or _head_dim(row, hidden, heads)
    return (
        _map("q", hidden, heads * head_dim, "column", units=heads, gemm="qkv"),
        _map("k", hidden, kv_heads * head_dim, "kv_column", units=kv_heads, gemm="qkv"),
        _map("v", hidden, kv_heads * head_dim, "kv_column", units=kv_heads, gemm="qkv"),
        AttentionCore(
            kind="gqa", num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim, v_head_dim=head_dim
        ),
        _map("o", heads * head_dim, hidden, "row", units=heads),
    )


def _head_dim(row: TrainingRow, hidden: int, heads: int) -> int:
    """Return hidden / heads, but for families whose head width is a constant of its own."""
    name = row.text("model").lower()
    if "gpt-oss" in name:
        return 64
    if "qwen3" in name:
        return 128
    if hidden % heads:
        raise RowError(f"{heads} heads do not divide a hidden size of {hidden}")
    return hidden // heads


def _latent(hidden: int, heads: int) -> tuple[Op, ...]:
    q_rank, kv_rank, rope = _LATENT["q_rank"], _LATENT["kv_rank"], _LATENT["rope"]
    nope, value = _LATENT["nope"], _LATENT["value"]
    return (
        _map("q_down", hidden, q_rank, "replicated"),
        _map("kv_down", hidden, kv_rank + rope, "replicated"),
        _map("q_up", q_rank, heads * (nope + rope), "column", units=heads),
        _map("kv_up", kv_rank, heads * (nope + value), "column", units=heads),
        AttentionCore(
            kind="mla",
            num_heads=heads,
            num_kv_heads=heads,
            head_dim=nope + rope,
            v_head_dim=value,
            latent_dim=kv_rank,
            rope_dim=rope,
        ),
        _map("o", heads * value, hidden, "row", units=heads),
    )


def _dense(hidden: int, width: int, gated: bool, slot: str = "dense_ffn") -> tuple[Op, ...]:
    if not width:
        return ()
    names = ("gate", "up") if gated else ("up",)
    label = f"{slot}_in"
    maps = tuple(_map(n, hidden, width, "column", gemm=label, slot=slot) for n in names)
    return (*maps, _map("down", width, hidden, "row", slot=slot))


def _sparse(row: TrainingRow, hidden: int, ffn: _FeedForward) -> tuple[Op, ...]:
    router = Linear(
        name="router",
        in_features=hidden,
        out_features=ffn.num_experts,
        shard="replicated",
        slot="router",
        quantised=False,
    )
    experts = Experts(
        name="experts",
        num_experts=ffn.num_experts,
        top_k=ffn.top_k,
        hidden=hidden,
        inter=ffn.expert,
        bias=any(key in row.text("model").lower() for key in _BIASED_NAMES),
    )
    shared = _dense(hidden, ffn.num_shared * ffn.expert, True, "shared_expert")
    return (router, *shared, experts)


def _map(  # noqa: PLR0913 - the parts of a map
    name: str, rows: int, cols: int, shard: str, *, units: int = 0, gemm: str = "", slot: str = "attention"
) -> Linear:
    return Linear(
        name=name,
        in_features=rows,
        out_features=cols,
        shard=shard,  # pyright: ignore[reportArgumentType]
        slot=slot,  # pyright: ignore[reportArgumentType]
        num_units=units,
        gemm=gemm,
    )
