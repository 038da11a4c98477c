"""The model graph: what a model computes and stores, layer by layer, before any strategy.

A layer is a tuple of operators. Weights are listed as the linear maps and tables that they
are, each with the way it may be sharded, so parameter totals, resident bytes and GEMM shapes
all come from one description. Equal layers are the same object.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Shard = Literal["column", "row", "kv_column", "vocab", "replicated"]
Slot = Literal[
    "attention", "dense_ffn", "shared_expert", "router", "mixer", "embedding", "head", "vision", "other"
]
VOCAB_MULTIPLE = 64
"""Rows of a vocabulary table are padded to this before they are split (vLLM's default padding size)."""


def ceil_div(value: int, by: int) -> int:
    """Return value / by, rounded up."""
    return -(-value // by)


def units_per_rank(num_units: int, tp: int) -> int:
    """Return how many of `num_units` heads the busiest of `tp` ranks holds (at least one: replicated)."""
    return max(1, ceil_div(num_units, tp))


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y = x W (+ b), W of shape [in_features, out_features]; a table is a map from one-hot rows.

    `shard`: column splits the outputs (in `num_units` heads where given), row the inputs (the bias
    stays whole), kv_column splits the outputs in `num_units` heads and replicates them when there
    are more ranks, vocab splits the vocabulary (inputs of an embedding, outputs of a head) after
    padding, replicated keeps all on every rank. Maps of a layer with the same `gemm` read the same
    input and run as one GEMM. `quantised`: stored in the plan's weight format (else 16 bit);
    `fmt` is the format in the checkpoint ("" means the checkpoint's 16 or 32 bit dtype). `tied`:
    the weights are those of the embedding and add no parameters, though a pipeline whose first
    and last stage differ holds them twice. `per_token` is the share of the tokens that passes
    through it (0 for tables, which are looked up).
    """

    name: str
    in_features: int
    out_features: int
    shard: Shard
    slot: Slot
    bias: bool = False
    quantised: bool = True
    num_units: int = 0
    per_token: float = 1.0
    gemm: str = ""
    fmt: str = ""
    tied: bool = False

    @property
    def num_params(self) -> int:
        """Stored parameters, bias included, whether tied or not."""
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)

    def shape_per_rank(self, tp: int, vocab_multiple: int = VOCAB_MULTIPLE) -> tuple[int, int]:
        """Return (in_features, out_features) on the fullest of `tp` ranks."""
        rows, cols = self.in_features, self.out_features
        if self.shard == "row":
            rows = self._split(rows, tp)
        elif self.shard == "column":
            cols = self._split(cols, tp)
        elif self.shard == "kv_column":
            cols = cols // self.num_units * units_per_rank(self.num_units, tp)
        elif self.shard == "vocab" and self.slot == "head":
            cols = ceil_div(ceil_div(cols, vocab_multiple) * vocab_multiple, tp)
        elif self.shard == "vocab":
            rows = ceil_div(ceil_div(rows, vocab_multiple) * vocab_multiple, tp)
        return rows, cols

    def num_params_per_rank(self, tp: int, vocab_multiple: int = VOCAB_MULTIPLE) -> int:
        """Return the parameters on the fullest of `tp` ranks, padding, replication and bias included."""
        rows, cols = self.shape_per_rank(tp, vocab_multiple)
        return rows * cols + (cols if self.bias else 0)

    def _split(self, features: int, tp: int) -> int:
        if self.num_units:
            return features // self.num_units * units_per_rank(self.num_units, tp)
        return ceil_div(features, tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Routed experts: `num_experts` feed-forward blocks of which a token uses `top_k`.

    Each is gate and up (hidden to inter; up alone if not `gated`) and down (inter to hidden).
    Experts are spread over ep ranks and `inter` is split moe_tp ways. `fmt` as in `Linear`.
    """

    name: str
    num_experts: int
    top_k: int
    hidden: int
    inter: int
    gated: bool = True
    bias: bool = False
    quantised: bool = True
    fmt: str = ""

    @property
    def num_params_per_expert(self) -> int:
        """Parameters of one expert, biases included."""
        maps = 3 if self.gated else 2
        biases = ((maps - 1) * self.inter + self.hidden) if self.bias else 0
        return maps * self.hidden * self.inter + biases

    @property
    def num_params(self) -> int:
        """Parameters of all experts, biases included."""
        return self.num_experts * self.num_params_per_expert

    def num_params_per_rank(self, ep: int, moe_tp: int, num_redundant: int = 0) -> int:
        """Return the parameters on the fullest rank; the down bias is whole on every rank.

        `num_redundant` experts of the layer stand there a second time.
        """
        maps = 3 if self.gated else 2
        inter = ceil_div(self.inter, moe_tp)
        biases = ((maps - 1) * inter + self.hidden) if self.bias else 0
        return ceil_div(self.num_experts + num_redundant, ep) * (maps * self.hidden * inter + biases)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCore:
    """Scores, softmax and weighted sum; owns the KV cache of the layer.

    gqa: the cache holds num_kv_heads x (head_dim + v_head_dim) elements per token (split over
    tensor ranks by head). mla: latent_dim + rope_dim elements per token, the same on every rank.
    `window` tokens are kept (0: all); `chunked` windows are blocks that do not slide. Where
    `compress_ratio` is set the layer keeps its window and, for older tokens, one entry per that
    many. `index_dim` elements per token (or per entry) are kept besides for a sparse indexer that
    lets a query read only `index_topk` entries. `shares_kv` layers read another layer's cache.
    `cross` layers attend to an image or encoder: their cache grows with that, not with the text.
    """

    kind: Literal["gqa", "mla"]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int = 0
    chunked: bool = False
    latent_dim: int = 0
    rope_dim: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    compress_ratio: int = 0
    shares_kv: bool = False
    causal: bool = True
    cross: bool = False

    @property
    def kv_elems_per_entry(self) -> int:
        """Elements of one cache entry over all ranks: keys and values, or the latent; no index keys."""
        if self.kind == "mla":
            return self.latent_dim + self.rope_dim
        return self.num_kv_heads * (self.head_dim + self.v_head_dim)

    @property
    def kv_elems_per_token(self) -> int:
        """Cache elements per text token in reach, without replication and without index keys."""
        return 0 if self.shares_kv or self.cross else self.kv_elems_per_entry

    @property
    def cache_elems_per_token(self) -> int:
        """All cache elements per text token in reach: keys, values (or latent) and index keys."""
        return 0 if self.shares_kv or self.cross else self.kv_elems_per_entry + self.index_dim

    def num_entries(self, num_tokens: int) -> int:
        """Return the KV entries kept after `num_tokens` tokens (index keys follow `num_index_entries`)."""
        if self.shares_kv or self.cross:
            return 0
        if self.compress_ratio:
            return min(num_tokens, self.window) + num_tokens // self.compress_ratio
        return min(num_tokens, self.window) if self.window else num_tokens

    def cache_elems(self, num_tokens: int) -> int:
        """Return the cache elements of one sequence of `num_tokens`, index keys included."""
        index_entries = num_tokens // self.compress_ratio if self.compress_ratio else num_tokens
        index = 0 if self.shares_kv else index_entries * self.index_dim
        return self.num_entries(num_tokens) * self.kv_elems_per_entry + index

    def kv_heads_per_rank(self, tp: int) -> int:
        """Return the KV heads on each of `tp` ranks; heads are replicated when ranks outnumber them."""
        return units_per_rank(self.num_kv_heads, tp)

    def cache_elems_per_token_per_rank(self, tp: int) -> int:
        """Return the elements per token in reach on each of `tp` ranks; latents and index keys are whole."""
        if self.shares_kv or self.cross:
            return 0
        if self.kind == "mla":
            return self.cache_elems_per_token
        return self.kv_heads_per_rank(tp) * (self.head_dim + self.v_head_dim) + self.index_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCore:
    """A recurrent mixer: a state of fixed size per sequence instead of a KV cache.

    `recurrent_elems` (kept in fp32) and `conv_elems` (16 bit) are per sequence over all ranks and
    split by head; `group_conv_elems` of the latter belong to `num_groups` groups that are
    replicated when ranks outnumber them.
    """

    kind: Literal["mamba", "mamba2", "gated_delta_net", "lightning"]
    num_heads: int
    recurrent_elems: int
    conv_elems: int
    num_groups: int = 0
    group_conv_elems: int = 0

    def recurrent_elems_per_rank(self, tp: int) -> int:
        """Return the recurrent state elements per sequence on each of `tp` ranks."""
        return ceil_div(self.recurrent_elems, tp)

    def conv_elems_per_rank(self, tp: int) -> int:
        """Return the convolution state elements per sequence on each of `tp` ranks."""
        own = ceil_div(self.conv_elems - self.group_conv_elems, tp)
        if not self.num_groups:
            return own
        return own + self.group_conv_elems // self.num_groups * units_per_rank(self.num_groups, tp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """Parameters that no GEMM uses: norms, sinks, convolutions, scalars; kept in 16 or 32 bit.

    `shard` as in `Linear`. A `buffer` is stored and resident but not a parameter (the bias of a
    DeepSeek router).
    """

    name: str
    num_params: int
    shard: Literal["replicated", "column", "kv_column"] = "replicated"
    num_units: int = 0
    buffer: bool = False

    def num_params_per_rank(self, tp: int) -> int:
        """Return the elements on the fullest of `tp` ranks."""
        if self.shard == "kv_column":
            return self.num_params // self.num_units * units_per_rank(self.num_units, tp)
        return ceil_div(self.num_params, tp) if self.shard == "column" else self.num_params


Op = Linear | Experts | AttentionCore | StateCore | Small


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: operators in order. `kind` is a readable label, e.g. ``attention+moe``."""

    kind: str
    ops: tuple[Op, ...]

    @property
    def num_params(self) -> int:
        """Parameters of the layer."""
        return sum(op_params(op) for op in self.ops)


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionTower:
    """How images become tokens: patches of `patch` pixels a side, `merge` x `merge` of them to a token.

    A tower of a fixed resolution always has `fixed_patches`, which become `fixed_tokens`. Its maps stand
    among the `extra` operators of a model.
    """

    num_heads: int
    patch: int
    merge: int = 1
    fixed_patches: int = 0
    fixed_tokens: int = 0

    def patches_and_tokens(self, width: int, height: int) -> tuple[int, int]:
        """Return the patches and tokens of an image of so many pixels, sides rounded to whole tokens."""
        if self.fixed_patches:
            return self.fixed_patches, self.fixed_tokens
        side = self.patch * self.merge
        tokens = max(1, round(width / side)) * max(1, round(height / side))
        return tokens * self.merge**2, tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """A model: embedding, layers, head, and what the checkpoint says about formats.

    `assumed_family` names the family that stood in for an unknown architecture ("" if known).
    `extra` are weights outside the text decoder (vision tower, projector), on the first stage.
    `mtp_layers` (multi-token prediction) are no part of any parameter total; they are loaded
    only for speculative decoding. `checkpoint_weight_fmt` is the format of most quantised weights.
    """

    name: str
    family: str
    architecture: str
    vocab_size: int
    hidden_size: int
    tied_embeddings: bool
    max_position: int
    layers: tuple[Layer, ...]
    embedding: tuple[Op, ...]
    head: tuple[Op, ...]
    extra: tuple[Op, ...] = ()
    vision: VisionTower | None = None
    mtp_layers: tuple[Layer, ...] = ()
    checkpoint_dtype: str = "bf16"
    checkpoint_weight_fmt: str = "bf16"
    checkpoint_kv_fmt: str = "auto"
    assumed_family: str = ""

    @property
    def num_params(self) -> int:
        """All parameters; a tied head is counted once, buffers and MTP layers not at all."""
        return self.num_text_params + sum(op_params(op) for op in self.extra)

    @property
    def num_text_params(self) -> int:
        """Parameters of embedding, decoder layers and head."""
        return sum(op_params(op) for op in (*self.embedding, *self.head, *self._layer_ops()))

    @property
    def num_routed_expert_params(self) -> int:
        """Parameters of the routed experts."""
        return sum(op.num_params for op in self._layer_ops() if isinstance(op, Experts))

    @property
    def num_active_text_params(self) -> int:
        """Text parameters that one token uses: all but the routed experts it does not pick."""
        experts = (op for op in self._layer_ops() if isinstance(op, Experts))
        return self.num_text_params - sum(
            (op.num_experts - op.top_k) * op.num_params_per_expert for op in experts
        )

    @property
    def num_layers(self) -> int:
        """Decoder layers."""
        return len(self.layers)

    @property
    def num_mtp_layers(self) -> int:
        """Multi-token prediction layers of the checkpoint."""
        return len(self.mtp_layers)

    @property
    def kv_elems_per_token(self) -> int:
        """Key and value (or latent) elements per token over all layers, windowed ones included.

        Index keys of sparse attention are not in it; see `cache_elems_per_token`.
        """
        return sum(core.kv_elems_per_token for core in self.attention_cores())

    @property
    def kv_elems_per_token_full(self) -> int:
        """The part of `kv_elems_per_token` in layers without a window: it grows with the sequence."""
        return sum(core.kv_elems_per_token for core in self.attention_cores() if not core.window)

    @property
    def kv_elems_per_token_windowed(self) -> int:
        """The part of `kv_elems_per_token` in layers that keep only a window."""
        return self.kv_elems_per_token - self.kv_elems_per_token_full

    @property
    def cache_elems_per_token(self) -> int:
        """Elements of `kv_elems_per_token` and index keys together."""
        return sum(core.cache_elems_per_token for core in self.attention_cores())

    @property
    def recurrent_elems_per_seq(self) -> int:
        """Recurrent state elements of one sequence over all layers (fp32)."""
        return sum(op.recurrent_elems for op in self._layer_ops() if isinstance(op, StateCore))

    @property
    def conv_elems_per_seq(self) -> int:
        """Convolution state elements of one sequence over all layers (16 bit)."""
        return sum(op.conv_elems for op in self._layer_ops() if isinstance(op, StateCore))

    @property
    def num_experts(self) -> int:
        """Routed experts per MoE layer (the largest), 0 for a dense model."""
        return max((op.num_experts for op in self._layer_ops() if isinstance(op, Experts)), default=0)

    def cache_elems(self, num_tokens: int) -> int:
        """Return the cache elements of one sequence of `num_tokens`: windows and compression applied."""
        return sum(core.cache_elems(num_tokens) for core in self.attention_cores())

    def attention_cores(self) -> tuple[AttentionCore, ...]:
        """Every attention core, in layer order."""
        return tuple(op for op in self._layer_ops() if isinstance(op, AttentionCore))

    def layer_runs(self) -> tuple[tuple[Layer, int], ...]:
        """Return consecutive equal layers as (layer, count)."""
        return tuple((layer, len(list(run))) for layer, run in groupby(self.layers))

    def weight_fmt(self, op: Linear | Experts, plan_fmt: str) -> str:
        """Return the format of a weight under a plan's weight format.

        The checkpoint's own format keeps every weight as it is stored; any other format
        applies to the weights that may be quantised and leaves the rest in the checkpoint's dtype.
        """
        if plan_fmt == self.checkpoint_weight_fmt:
            return op.fmt or self.checkpoint_dtype
        return plan_fmt if op.quantised else self.checkpoint_dtype

    def _layer_ops(self) -> tuple[Op, ...]:
        return tuple(op for layer in self.layers for op in layer.ops)


def op_params(op: Op) -> int:
    """Return the parameters that an operator adds to a total: none for cores and buffers.

    A tied map adds its bias alone.
    """
    if isinstance(op, Linear):
        shared = op.in_features * op.out_features if op.tied else 0
        return op.num_params - shared
    if isinstance(op, Small):
        return 0 if op.buffer else op.num_params
    return op.num_params if isinstance(op, Experts) else 0
