"""Granite 3 MoE: Granite attention with routed experts.

Source: transformers GraniteMoeForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    moe = replace(
        read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe", router_name="router"
    )
    layers = GqaStack(attention=attention, windows=(0,) * config.layers()).moe(moe)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("granitemoe",),
    architectures=("GraniteMoeForCausalLM",),
    build=_build,
)
