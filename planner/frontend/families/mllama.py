"""Llama 3.2 Vision: Llama layers with gated cross attention to the image between them.

Source: transformers MllamaForConditionalGeneration (eight rows more than the vocabulary,
so the head is never tied).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, table
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import block_layer
from planner.frontend.model_blocks.vision import Encoder, patches_per_side, vision_map, vision_param
from planner.ir.model_graph import Layer, Op, Small


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    attention = read_gqa(text)
    hidden, vocab = attention.hidden, text.count("vocab_size")
    crossed = set(text.counts("cross_attention_layers") or ())
    cross = replace(attention, cross=True, qk_norm="head", prefix="cross_attn")
    ffn = read_ffn(text).ops()
    gates = Small(name="cross_attn_gates", num_params=2)

    def layer(index: int) -> Layer:
        if index in crossed:
            return block_layer("cross_attention+ffn", (*cross.ops(), gates), ffn, hidden=hidden)
        return block_layer("attention+ffn", attention.ops(), ffn, hidden=hidden)

    frame = CausalLm(config=text, tied=False)
    parts = frame.parts(stack(text.layers(), layer), extra=_vision(config, hidden))
    return replace(parts, embedding=(table("embed_tokens", vocab + 8, hidden),))


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    hidden, inter = vision.count("hidden_size"), vision.count("intermediate_size")
    tiles = vision.count("max_num_tiles", 4)
    patches = patches_per_side(vision) ** 2 + 1
    ratios = vision.num_items("supported_aspect_ratios", 8) + 1
    plain = Encoder(
        hidden=hidden, inter=inter, num_layers=vision.layers(), attention_bias=False, prefix="vision.layers"
    )
    gated = replace(
        plain, num_layers=vision.layers("num_global_layers"), layer_params=2, prefix="vision.global_layers"
    )
    patch = vision.count("num_channels", 3) * vision.count("patch_size") ** 2
    tables = ratios * tiles * hidden * (patches + 2)
    return (
        vision_map("vision_model.patch_embedding", patch, hidden, bias=False),
        vision_param("vision_model.embeddings", hidden + patches * hidden + tables + 3),
        vision_param("vision_model.layernorms", 4 * hidden),
        *plain.ops(),
        *gated.ops(),
        vision_map("multi_modal_projector", vision.count("vision_output_dim"), text_hidden, bias=True),
    )


FAMILY = Family(
    model_types=("mllama", "mllama_text_model"),
    architectures=("MllamaForConditionalGeneration", "MllamaForCausalLM"),
    build=_build,
)
