"""Gemma: Llama with its own head size and a tied head.

Source: transformers GemmaForCausalLM.
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
    config = config.filled({"head_dim": 256})
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    layers = GqaStack(attention=attention, windows=(0,) * config.layers()).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, True)).parts(layers)


FAMILY = Family(
    model_types=("gemma",),
    architectures=("GemmaForCausalLM",),
    build=_build,
)
