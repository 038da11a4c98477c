"""Seed-OSS: Llama with biases on query, key and value.

Source: transformers SeedOssForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(
        read_gqa(config),
        qkv_bias=config.flag("attention_bias", True),
        out_bias=config.flag("attention_out_bias", False),
    )
    ffn = read_ffn(config, bias=config.flag("mlp_bias", False))
    layers = GqaStack(attention=attention, windows=(0,) * config.layers()).dense(ffn)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("seed_oss",),
    architectures=("SeedOssForCausalLM",),
    build=_build,
)
