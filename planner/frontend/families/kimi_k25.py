"""Kimi K2.5 to K2.7: the DeepSeek-V3 decoder of Kimi K2 with a MoonViT tower.

Source: transformers Kimi_K25ForConditionalGeneration.
"""

from __future__ import annotations

from math import prod

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_mla
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_layers, deepseek_mtp, read_deepseek_moe
from planner.frontend.model_blocks.vision import Encoder, vision_map, vision_param
from planner.ir.model_graph import Op


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config")
    attention = read_mla(text).ops()
    layers = deepseek_layers(text, lambda _: attention, read_deepseek_moe(text))
    frame = CausalLm(config=text, tied=tied(text, False))
    return frame.parts(layers, extra=_vision(config), mtp_layers=deepseek_mtp(text, layers))


def _vision(config: ConfigReader) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    old = vision.has("vt_hidden_size")
    hidden = vision.count("vt_hidden_size" if old else "hidden_size")
    merge = vision.counts("merge_kernel_size", minimum=1) or (2, 2)
    merged = hidden * prod(merge)
    rows = vision.count("init_pos_emb_height" if old else "pos_emb_height")
    columns = vision.count("init_pos_emb_width" if old else "pos_emb_width")
    encoder = Encoder(
        hidden=hidden,
        inter=vision.count("vt_intermediate_size" if old else "intermediate_size"),
        num_layers=vision.layers("vt_num_hidden_layers" if old else "num_hidden_layers"),
    )
    text_hidden = config.section("text_config").count("hidden_size")
    return (
        vision_map("vision_tower.patch_embed", 3 * vision.count("patch_size") ** 2, hidden, bias=True),
        vision_param("vision_tower.pos_emb", rows * columns * hidden),
        *encoder.ops(),
        vision_param("vision_tower.final_layernorm", 2 * hidden),
        vision_param("mm_projector.pre_norm", 2 * hidden),
        vision_map("mm_projector.in_proj", merged, merged, bias=True),
        vision_map("mm_projector.out_proj", merged, text_hidden, bias=True),
    )


FAMILY = Family(
    model_types=("kimi_k25",),
    architectures=("KimiK25ForConditionalGeneration", "Kimi_K25ForConditionalGeneration"),
    build=_build,
)
