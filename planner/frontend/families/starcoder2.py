"""StarCoder 2: layer norms and biases, a plain feed-forward block, one window.

Source: transformers Starcoder2ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, same_window, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("use_bias", True)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    ffn = replace(read_ffn(config, bias=bias), gated=False, names=("", "c_fc", "c_proj"))
    windows = same_window(config, config.layers())
    layers = GqaStack(attention=attention, windows=windows, norm_bias=True).dense(ffn)
    return CausalLm(config=config, tied=tied(config, True), norm_bias=True).parts(layers)


FAMILY = Family(
    model_types=("starcoder2",),
    architectures=("Starcoder2ForCausalLM",),
    build=_build,
)
