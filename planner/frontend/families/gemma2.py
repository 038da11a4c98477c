"""Gemma 2: four norms per layer, windows on every other layer, a tied head.

Source: transformers Gemma2ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import SANDWICH_NORMS, GqaStack


def _build(config: ConfigReader) -> ModelParts:
    config = config.filled({"head_dim": 256, "sliding_window": 4096})
    num_layers = config.layers()
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    windows = layer_windows(config, num_layers, [i % 2 == 0 for i in range(num_layers)])
    layers = GqaStack(attention=attention, windows=windows, norms=SANDWICH_NORMS).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, True)).parts(layers)


FAMILY = Family(
    model_types=("gemma2",),
    architectures=("Gemma2ForCausalLM",),
    build=_build,
)
