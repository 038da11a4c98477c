"""The model graph: what a model computes and stores, layer by layer, before any strategy.

A layer is a tuple of operators. Weights are listed as the linear maps and tables that they
are, each with the way it may be sharded, so parameter totals, resident bytes and GEMM shapes
all come from one description. Equal layers are the same object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Shard = Literal["column", "row", "kv_column", "replicated"]
Slot = Literal["attention", "dense_ffn", "shared_expert", "router", "mixer", "embedding", "head", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear:
    """y = x W (+ b), W of shape [in_features, out_features].

    `shard`: column splits the outputs, row the inputs, kv_column splits the outputs in units of
    `num_units` heads and replicates them beyond that, replicated keeps all on every rank.
    `quantised`: stored in the plan's weight format (else 16 bit). `per_token` is the share of the
    tokens that passes through it (0 for weights that are stored but not multiplied per token).
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

    @property
    def num_params(self) -> int:
        """Parameters, bias included."""
        return self.in_features * self.out_features + (self.out_features if self.bias else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """Routed experts: `num_experts` feed-forward blocks of which a token uses `top_k`."""

    name: str
    num_experts: int
    top_k: int
    hidden: int
    inter: int
    gated: bool = True
    bias: bool = False
    quantised: bool = True

    @property
    def num_params(self) -> int:
        """Parameters of all experts, biases included."""
        maps = 3 if self.gated else 2
        biases = ((maps - 1) * self.inter + self.hidden) if self.bias else 0
        return self.num_experts * (maps * self.hidden * self.inter + biases)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionCore:
    """Scores, softmax and weighted sum; owns the KV cache of the layer.

    gqa: the cache holds num_kv_heads x (head_dim + v_head_dim) elements per token (split over
    tensor ranks by head). mla: latent_dim + rope_dim elements per token, the same on every rank.
    `window` tokens are kept (0: all). `index_dim` elements per token are kept for a sparse
    indexer that lets a query read only `index_topk` tokens. `shares_kv` layers read another layer's cache.
    """

    kind: Literal["gqa", "mla"]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int = 0
    latent_dim: int = 0
    rope_dim: int = 0
    index_heads: int = 0
    index_dim: int = 0
    index_topk: int = 0
    shares_kv: bool = False
    causal: bool = True
    cross: bool = False

    @property
    def kv_elems_per_token(self) -> int:
        """Cache elements per token over all ranks, without replication."""
        if self.shares_kv or self.cross:
            return 0
        own = (
            self.latent_dim + self.rope_dim
            if self.kind == "mla"
            else self.num_kv_heads * (self.head_dim + self.v_head_dim)
        )
        return own + self.index_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class StateCore:
    """A recurrent mixer: a state of fixed size per sequence instead of a KV cache."""

    kind: Literal["mamba", "mamba2", "gated_delta_net", "lightning"]
    num_heads: int
    recurrent_elems: int
    conv_elems: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """Parameters too small to shard: norms, sinks, biases of routers, scalars."""

    name: str
    num_params: int


Op = Linear | Experts | AttentionCore | StateCore | Small


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: operators in order. `kind` is a readable label, e.g. ``attention+moe``."""

    kind: str
    ops: tuple[Op, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelGraph:
    """A model: embedding, layers, head, and what the checkpoint says about formats.

    `assumed_family` names the family that stood in for an unknown architecture ("" if known).
    `extra` are weights outside the text decoder (vision tower, projector), on the first stage.
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
    checkpoint_dtype: str = "bf16"
    checkpoint_weight_fmt: str = "bf16"
    checkpoint_kv_fmt: str = "auto"
    num_mtp_layers: int = 0
    assumed_family: str = ""

    @property
    def num_params(self) -> int:
        """All parameters; a tied head is counted once."""
        return self.num_text_params + sum(op_params(op) for op in self.extra)

    @property
    def num_text_params(self) -> int:
        """Parameters of embedding, decoder layers and head."""
        groups = (self.embedding, self.head, *(layer.ops for layer in self.layers))
        return sum(op_params(op) for ops in groups for op in ops)

    @property
    def num_active_text_params(self) -> int:
        """Text parameters that one token uses: all but the routed experts it does not pick."""
        idle = sum(
            op.num_params - op.num_params // op.num_experts * op.top_k
            for layer in self.layers
            for op in layer.ops
            if isinstance(op, Experts)
        )
        return self.num_text_params - idle

    @property
    def kv_elems_per_token(self) -> int:
        """KV cache elements per token over all layers, windowed layers included."""
        return sum(core.kv_elems_per_token for core in self.attention_cores())

    @property
    def num_experts(self) -> int:
        """Routed experts per MoE layer (the largest), 0 for a dense model."""
        return max(
            (op.num_experts for layer in self.layers for op in layer.ops if isinstance(op, Experts)),
            default=0,
        )

    def attention_cores(self) -> tuple[AttentionCore, ...]:
        """Every attention core, in layer order."""
        return tuple(op for layer in self.layers for op in layer.ops if isinstance(op, AttentionCore))


def op_params(op: Op) -> int:
    """Return the number of parameters of an operator (0 for cores)."""
    return op.num_params if isinstance(op, Linear | Experts | Small) else 0
