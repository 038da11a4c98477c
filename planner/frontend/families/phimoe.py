"""Phi 3.5 MoE: layer norms with biases, experts in every layer.

Source: transformers PhimoeForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, same_window, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    moe = replace(read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe")
    windows = same_window(config, config.layers())
    layers = GqaStack(attention=attention, windows=windows, norm_bias=True).moe(moe)
    head_bias = config.flag("lm_head_bias", False)
    frame = CausalLm(config=config, tied=tied(config, False), norm_bias=True, head_bias=head_bias)
    return frame.parts(layers)


FAMILY = Family(
    model_types=("phimoe",),
    architectures=("PhimoeForCausalLM", "PhiMoEForCausalLM"),
    build=_build,
)
