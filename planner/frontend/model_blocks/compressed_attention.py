"""Attention over compressed caches and hyper-connections, as in DeepSeek-V4.

Source: transformers DeepseekV4ForCausalLM.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.attention import Indexer, read_indexer
from planner.ir.model_graph import AttentionCore, Linear, Op, Shard, Small

SPARSE_RATIO = 4
"""Layers that compress by this ratio overlap their groups and pick entries with an indexer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedAttention:
    """One latent serves as key and value: a window of it, and one entry per `ratio` older tokens.

    `ratio` 0 keeps the window alone, `SPARSE_RATIO` doubles the compressor's width and adds the
    indexer. The output passes `num_out_groups` low-rank maps, one per group of heads.
    """

    hidden: int
    num_heads: int
    head_dim: int
    rope_dim: int
    q_lora_rank: int
    num_out_groups: int
    out_rank: int
    window: int
    indexer: Indexer
    ratio: int = 0

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of the block."""
        width = self.num_heads * self.head_dim
        group_width = width // self.num_out_groups
        out_width = self.num_out_groups * self.out_rank
        return (
            self._map("wq_a", self.hidden, self.q_lora_rank, "replicated", gemm="qkv_a"),
            Small(name="attn.q_norm", num_params=self.q_lora_rank),
            self._map("wq_b", self.q_lora_rank, width, "column", units=self.num_heads),
            self._map("wkv", self.hidden, self.head_dim, "replicated", gemm="qkv_a"),
            Small(name="attn.kv_norm", num_params=self.head_dim),
            Small(name="attn.attn_sink", num_params=self.num_heads, shard="column"),
            *self._compressor(),
            self._core(),
            self._map("wo_a", group_width, out_width, "column", units=self.num_out_groups),
            self._map("wo_b", out_width, self.hidden, "row", units=self.num_out_groups),
        )

    def _compressor(self) -> tuple[Op, ...]:
        if not self.ratio:
            return ()
        if self.ratio != SPARSE_RATIO:
            return self._pooled("compressor", self.head_dim, self.head_dim)
        index = self.indexer
        return (
            *self._pooled("compressor", 2 * self.head_dim, self.head_dim),
            *self._pooled("indexer.compressor", 2 * index.head_dim, index.head_dim),
            self._map("indexer.wq_b", self.q_lora_rank, index.num_heads * index.head_dim, "replicated"),
            self._map("indexer.weights_proj", self.hidden, index.num_heads, "replicated", quantised=False),
        )

    def _pooled(self, name: str, width: int, dim: int) -> tuple[Op, ...]:
        return (
            self._map(f"{name}.wkv", self.hidden, width, "replicated", quantised=False),
            self._map(f"{name}.wgate", self.hidden, width, "replicated", quantised=False),
            Small(name=f"attn.{name}.ape", num_params=self.ratio * width),
            Small(name=f"attn.{name}.norm", num_params=dim),
        )

    def _core(self) -> AttentionCore:
        sparse = self.ratio == SPARSE_RATIO
        return AttentionCore(
            kind="mla",
            num_heads=self.num_heads,
            num_kv_heads=1,
            head_dim=self.head_dim,
            v_head_dim=self.head_dim,
            latent_dim=self.head_dim - self.rope_dim,
            rope_dim=self.rope_dim,
            window=self.window,
            compress_ratio=self.ratio,
            index_heads=self.indexer.num_heads if sparse else 0,
            index_dim=self.indexer.head_dim if sparse else 0,
            index_topk=self.indexer.top_k if sparse else 0,
        )

    def _map(  # noqa: PLR0913 - the parts of a map
        self,
        name: str,
        in_features: int,
        out_features: int,
        shard: Shard,
        *,
        units: int = 0,
        gemm: str = "",
        quantised: bool = True,
    ) -> Linear:
        return Linear(
            name=f"attn.{name}",
            in_features=in_features,
            out_features=out_features,
            shard=shard,
            num_units=units,
            slot="attention",
            gemm=gemm,
            quantised=quantised,
        )


def read_compressed_attention(config: ConfigReader) -> CompressedAttention:
    """Read the dimensions; the rotary part is `qk_rope_head_dim` or an eighth of the head.

    Raises
    ------
    InputError
        If the output groups do not divide the heads.
    """
    heads, head_dim = config.count("num_attention_heads"), config.count("head_dim")
    groups = config.count("o_groups")
    if heads % groups:
        raise config.refuse("o_groups", f"does not divide the {heads} attention heads")
    return CompressedAttention(
        hidden=config.count("hidden_size"),
        num_heads=heads,
        head_dim=head_dim,
        rope_dim=config.optional_count("qk_rope_head_dim") or head_dim // 8,
        q_lora_rank=config.count("q_lora_rank"),
        num_out_groups=groups,
        out_rank=config.count("o_lora_rank"),
        window=config.count("sliding_window"),
        indexer=read_indexer(config),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperConnection:
    """Residual streams that are mixed before and after each block: maps from all streams to weights."""

    hidden: int
    num_streams: int

    def ops(self, name: str) -> tuple[Op, ...]:
        """Return the mixing of one block: weights to read, to write and between streams."""
        weights = (2 + self.num_streams) * self.num_streams
        return (self._map(name, weights), Small(name=f"{name}.base_scale", num_params=weights + 3))

    def head_ops(self) -> tuple[Op, ...]:
        """Return the final mixing of the streams into one."""
        return (
            self._map("hc_head", self.num_streams),
            Small(name="hc_head.base_scale", num_params=self.num_streams + 1),
        )

    def _map(self, name: str, out_features: int) -> Linear:
        return Linear(
            name=f"{name}.fn",
            in_features=self.num_streams * self.hidden,
            out_features=out_features,
            shard="replicated",
            slot="other",
            quantised=False,
        )
