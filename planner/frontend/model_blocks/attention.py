"""Attention blocks: grouped-query attention and multi-head latent attention, as operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import AttentionCore, Linear, Op, Small


@dataclass(frozen=True, slots=True, kw_only=True)
class GqaAttention:
    """Query, key and value maps, scores, output map.

    `qk_norm`: per head (one vector of head_dim each), full (a vector over all heads), or none;
    with `norm_bias` each carries a bias. `gated` doubles the query map: half of it gates the output.
    `value_is_key` layers have no value map but still cache values. `cross` layers attend to `kv_hidden`
    wide states of an image. `names` are those of the four maps in checkpoints.
    """

    hidden: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int = 0
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["", "head", "full"] = ""
    norm_bias: bool = False
    gated: bool = False
    sinks: bool = False
    window: int = 0
    chunked: bool = False
    value_is_key: bool = False
    shares_kv: bool = False
    cross: bool = False
    prefix: str = "self_attn"
    names: tuple[str, str, str, str] = ("q_proj", "k_proj", "v_proj", "o_proj")

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        return (*self._inputs(), *self._norms(), *self._sinks(), self._core(), self._output())

    def _inputs(self) -> tuple[Op, ...]:
        v_dim = self.v_head_dim or self.head_dim
        q_width = self.num_heads * self.head_dim * (2 if self.gated else 1)
        maps: list[Op] = [self._linear(0, q_width, kv=False)]
        if not self.shares_kv:
            maps.append(self._linear(1, self.num_kv_heads * self.head_dim, kv=True))
            if not self.value_is_key:
                maps.append(self._linear(2, self.num_kv_heads * v_dim, kv=True))
        return tuple(maps)

    def _linear(self, which: int, out_features: int, *, kv: bool) -> Linear:
        return Linear(
            name=f"{self.prefix}.{self.names[which]}",
            in_features=self.hidden,
            out_features=out_features,
            shard="kv_column" if kv else "column",
            num_units=self.num_kv_heads if kv else self.num_heads,
            slot="attention",
            bias=self.qkv_bias,
            per_token=0.0 if kv and self.cross else 1.0,
            gemm="" if kv and self.cross else "qkv",
        )

    def _norms(self) -> tuple[Op, ...]:
        if not self.qk_norm:
            return ()
        factor = 2 if self.norm_bias else 1
        names = (("q_norm", self.num_heads), ("k_norm", self.num_kv_heads))[: 1 if self.shares_kv else 2]
        if self.qk_norm == "head":
            return tuple(
                Small(name=f"{self.prefix}.{n}", num_params=factor * self.head_dim) for n, _ in names
            )
        return tuple(
            Small(
                name=f"{self.prefix}.{n}",
                num_params=factor * heads * self.head_dim,
                shard="kv_column",
                num_units=heads,
            )
            for n, heads in names
        )

    def _sinks(self) -> tuple[Op, ...]:
        if not self.sinks:
            return ()
        return (Small(name=f"{self.prefix}.sinks", num_params=self.num_heads, shard="column"),)

    def _core(self) -> AttentionCore:
        return AttentionCore(
            kind="gqa",
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            v_head_dim=self.v_head_dim or self.head_dim,
            window=self.window,
            chunked=self.chunked,
            shares_kv=self.shares_kv,
            cross=self.cross,
        )

    def _output(self) -> Linear:
        return Linear(
            name=f"{self.prefix}.{self.names[3]}",
            in_features=self.num_heads * (self.v_head_dim or self.head_dim),
            out_features=self.hidden,
            shard="row",
            num_units=self.num_heads,
            slot="attention",
            bias=self.out_bias,
        )


def read_gqa(config: ConfigReader, *, kv_heads_default: int | None = None) -> GqaAttention:
    """Read heads and head size; absent KV heads equal the heads, absent head_dim is hidden / heads.

    Raises
    ------
    InputError
        If heads do not divide the width or KV heads do not divide the heads.
    """
    heads = config.count("num_attention_heads")
    kv_heads = config.optional_count("num_key_value_heads") or kv_heads_default or heads
    if heads % kv_heads:
        raise config.refuse("num_key_value_heads", f"does not divide the {heads} attention heads")
    head_dim = config.optional_count("head_dim") or config.divided("hidden_size", "num_attention_heads")
    return GqaAttention(
        hidden=config.count("hidden_size"), num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexer:
    """The scorer of sparse attention: picks `top_k` cached tokens for each query.

    Source: DeepSeek-V3.2 model definition (query map from the compressed query, one key head,
    a layer norm on the key, one weight per head).
    """

    num_heads: int
    head_dim: int
    top_k: int

    def ops(self, hidden: int, q_rank: int) -> tuple[Op, ...]:
        """Return the operators; engines keep them whole on every rank."""
        shapes = (
            ("wq_b", q_rank, self.num_heads * self.head_dim),
            ("wk", hidden, self.head_dim),
            ("weights_proj", hidden, self.num_heads),
        )
        maps = tuple(
            Linear(
                name=f"self_attn.indexer.{name}",
                in_features=rows,
                out_features=cols,
                shard="replicated",
                slot="attention",
                quantised=name != "weights_proj",
            )
            for name, rows, cols in shapes
        )
        return (*maps, Small(name="self_attn.indexer.k_norm", num_params=2 * self.head_dim))


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaAttention:
    """Multi-head latent attention: low-rank query (optional) and one shared latent for keys and values.

    Source: DeepSeek-V2 model definition.
    """

    hidden: int
    num_heads: int
    q_lora_rank: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    bias: bool = False
    indexer: Indexer | None = None
    shares_index: bool = False

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        return (*self._query(), *self._key_value(), *self._index(), self._core(), self._output())

    def _query(self) -> tuple[Op, ...]:
        width = self.num_heads * (self.qk_nope_head_dim + self.qk_rope_head_dim)
        if not self.q_lora_rank:
            return (self._column("q_proj", self.hidden, width),)
        down = self._replicated("q_a_proj", self.q_lora_rank)
        norm = Small(name="self_attn.q_a_layernorm", num_params=self.q_lora_rank)
        return (down, norm, self._column("q_b_proj", self.q_lora_rank, width))

    def _key_value(self) -> tuple[Op, ...]:
        width = self.num_heads * (self.qk_nope_head_dim + self.v_head_dim)
        return (
            self._replicated("kv_a_proj_with_mqa", self.kv_lora_rank + self.qk_rope_head_dim),
            Small(name="self_attn.kv_a_layernorm", num_params=self.kv_lora_rank),
            self._column("kv_b_proj", self.kv_lora_rank, width),
        )

    def _index(self) -> tuple[Op, ...]:
        if self.indexer is None or self.shares_index:
            return ()
        return self.indexer.ops(self.hidden, self.q_lora_rank)

    def _core(self) -> AttentionCore:
        index = self.indexer
        return AttentionCore(
            kind="mla",
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.qk_nope_head_dim + self.qk_rope_head_dim,
            v_head_dim=self.v_head_dim,
            latent_dim=self.kv_lora_rank,
            rope_dim=self.qk_rope_head_dim,
            index_heads=0 if index is None or self.shares_index else index.num_heads,
            index_dim=0 if index is None or self.shares_index else index.head_dim,
            index_topk=0 if index is None else index.top_k,
        )

    def _output(self) -> Linear:
        return Linear(
            name="self_attn.o_proj",
            in_features=self.num_heads * self.v_head_dim,
            out_features=self.hidden,
            shard="row",
            num_units=self.num_heads,
            slot="attention",
            bias=self.bias,
        )

    def _replicated(self, name: str, out_features: int) -> Linear:
        return Linear(
            name=f"self_attn.{name}",
            in_features=self.hidden,
            out_features=out_features,
            shard="replicated",
            slot="attention",
            bias=self.bias,
            gemm="qkv_a" if self.q_lora_rank else "",
        )

    def _column(self, name: str, in_features: int, out_features: int) -> Linear:
        return Linear(
            name=f"self_attn.{name}",
            in_features=in_features,
            out_features=out_features,
            shard="column",
            num_units=self.num_heads,
            slot="attention",
        )


def read_mla(config: ConfigReader) -> MlaAttention:
    """Read the dimensions of latent attention; a null q_lora_rank means an uncompressed query.

    Raises
    ------
    InputError
        If a dimension is missing; q_lora_rank must be stated, be it as null.
    """
    if "q_lora_rank" not in config.values:
        config.count("q_lora_rank")
    return MlaAttention(
        hidden=config.count("hidden_size"),
        num_heads=config.count("num_attention_heads"),
        q_lora_rank=config.optional_count("q_lora_rank") or 0,
        kv_lora_rank=config.count("kv_lora_rank"),
        qk_nope_head_dim=config.count("qk_nope_head_dim"),
        qk_rope_head_dim=config.count("qk_rope_head_dim"),
        v_head_dim=config.count("v_head_dim"),
        bias=config.flag("attention_bias", False),
    )


def read_indexer(config: ConfigReader) -> Indexer:
    """Read the dimensions of the sparse indexer."""
    return Indexer(
        num_heads=config.count("index_n_heads"),
        head_dim=config.count("index_head_dim"),
        top_k=config.count("index_topk"),
    )
