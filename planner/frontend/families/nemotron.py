"""Nemotron 4 and Minitron: layer norms with biases and a plain squared-ReLU block.

Source: transformers NemotronForCausalLM.
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
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    ffn = replace(read_ffn(config, bias=config.flag("mlp_bias", False)), gated=False)
    stack = GqaStack(attention=attention, windows=(0,) * config.layers(), norm_bias=True)
    return CausalLm(config=config, tied=tied(config, False), norm_bias=True).parts(stack.dense(ffn))


FAMILY = Family(
    model_types=("nemotron",),
    architectures=("NemotronForCausalLM",),
    build=_build,
)
