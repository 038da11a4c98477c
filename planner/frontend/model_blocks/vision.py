"""Vision towers and projectors: weights that sit beside the text decoder.

They count in a model's total and in its resident bytes; where a workload has images, `planner.space.images`
prices them. Encoder maps are split like those of the decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.frontend.config_reader import ConfigReader
from planner.ir.model_graph import Linear, Op, Shard, Small


def vision_map(
    name: str, in_features: int, out_features: int, *, bias: bool, shard: Shard = "replicated"
) -> Linear:
    """Return a map outside the decoder, kept in 16 bit."""
    return Linear(
        name=name,
        in_features=in_features,
        out_features=out_features,
        shard=shard,
        slot="vision",
        bias=bias,
        quantised=False,
        per_token=0.0,
    )


def vision_param(name: str, num_params: int) -> Small:
    """Return a small parameter outside the decoder."""
    return Small(name=name, num_params=num_params)


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Transformer encoder layers: attention with as many KV heads as heads, two-map or gated block.

    `layer_params` are further small parameters per layer (norms of heads, gates, layer scales).
    """

    hidden: int
    inter: int
    num_layers: int
    attention_bias: bool = True
    ffn_bias: bool = True
    gated: bool = False
    norm_bias: bool = True
    num_norms: int = 2
    layer_params: int = 0
    attention_width: int = 0
    prefix: str = "vision_tower.layers"

    def ops(self) -> tuple[Op, ...]:
        """Return the operators of all layers."""
        return tuple(op for i in range(self.num_layers) for op in self._layer(f"{self.prefix}.{i}"))

    def _layer(self, p: str) -> tuple[Op, ...]:
        width = self.attention_width or self.hidden
        inputs = ("gate_proj", "up_proj") if self.gated else ("fc1",)
        norms = self.num_norms * self.hidden * (2 if self.norm_bias else 1)
        return (
            vision_map(f"{p}.attn.qkv", self.hidden, 3 * width, bias=self.attention_bias, shard="column"),
            vision_map(f"{p}.attn.proj", width, self.hidden, bias=self.attention_bias, shard="row"),
            *(
                vision_map(f"{p}.mlp.{n}", self.hidden, self.inter, bias=self.ffn_bias, shard="column")
                for n in inputs
            ),
            vision_map(f"{p}.mlp.fc2", self.inter, self.hidden, bias=self.ffn_bias, shard="row"),
            vision_param(f"{p}.norms", norms + self.layer_params),
        )


def patches_per_side(vision: ConfigReader) -> int:
    """Return how many patches an image has along one side."""
    return vision.count("image_size") // vision.count("patch_size")


def siglip_tower(vision: ConfigReader) -> tuple[Op, ...]:
    """Return a SigLIP tower; `vision_use_head` adds the attention pooling head.

    Source: transformers SiglipVisionModel.
    """
    hidden, inter = vision.count("hidden_size"), vision.count("intermediate_size")
    patch = vision.count("num_channels", 3) * vision.count("patch_size") ** 2
    encoder = Encoder(
        hidden=hidden, inter=inter, num_layers=vision.layers(), prefix="vision_tower.encoder.layers"
    )
    ops: tuple[Op, ...] = (
        vision_map("vision_tower.patch_embedding", patch, hidden, bias=True),
        vision_param("vision_tower.position_embedding", patches_per_side(vision) ** 2 * hidden),
        *encoder.ops(),
        vision_param("vision_tower.post_layernorm", 2 * hidden),
    )
    if not vision.flag("vision_use_head", True):
        return ops
    head = Encoder(hidden=hidden, inter=inter, num_layers=1, num_norms=1, prefix="vision_tower.head")
    return (*ops, vision_param("vision_tower.head.probe", hidden), *head.ops())


def qwen_vision(vision: ConfigReader) -> tuple[Op, ...]:
    """Return the tower of Qwen3-VL and Qwen3.5, with one merger per deep-stack layer.

    Source: transformers Qwen3VLVisionModel and Qwen3_5VisionModel.
    """
    hidden, out = vision.count("hidden_size"), vision.count("out_hidden_size")
    merged = hidden * vision.count("spatial_merge_size") ** 2
    patch = (
        vision.count("in_channels", 3) * vision.count("temporal_patch_size") * vision.count("patch_size") ** 2
    )
    encoder = Encoder(
        hidden=hidden,
        inter=vision.count("intermediate_size"),
        num_layers=vision.layers("depth"),
        prefix="visual.blocks",
    )
    mergers: list[Op] = [*_merger("visual.merger", hidden, merged, out)]
    for i, _ in enumerate(vision.counts("deepstack_visual_indexes") or ()):
        mergers += _merger(f"visual.deepstack_merger_list.{i}", merged, merged, out)
    return (
        vision_map("visual.patch_embed.proj", patch, hidden, bias=True),
        vision_param("visual.pos_embed", vision.count("num_position_embeddings") * hidden),
        *encoder.ops(),
        *mergers,
    )


def _merger(prefix: str, norm_dim: int, merged: int, out: int) -> tuple[Op, ...]:
    return (
        vision_param(f"{prefix}.norm", 2 * norm_dim),
        vision_map(f"{prefix}.linear_fc1", merged, merged, bias=True, shard="column"),
        vision_map(f"{prefix}.linear_fc2", merged, out, bias=True, shard="row"),
    )


def pixtral_tower(vision: ConfigReader) -> tuple[Op, ...]:
    """Return a Pixtral tower. Source: transformers PixtralVisionModel."""
    hidden = vision.count("hidden_size")
    patch = vision.count("num_channels", 3) * vision.count("patch_size") ** 2
    encoder = Encoder(
        hidden=hidden,
        inter=vision.count("intermediate_size"),
        num_layers=vision.layers(),
        attention_bias=False,
        ffn_bias=False,
        gated=True,
        norm_bias=False,
        prefix="vision_tower.transformer.layers",
    )
    return (
        vision_map("vision_tower.patch_conv", patch, hidden, bias=False),
        vision_param("vision_tower.ln_pre", hidden),
        *encoder.ops(),
    )
