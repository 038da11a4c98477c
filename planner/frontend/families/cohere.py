"""Command R and Command A: one norm per layer, attention and feed-forward in parallel.

Source: transformers CohereForCausalLM and Cohere2ForCausalLM (three windowed layers, then a full one).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    windows = (0,) * num_layers
    if config.text("model_type", "cohere") == "cohere2":
        pattern = config.count("sliding_window_pattern", 4)
        windows = layer_windows(config, num_layers, [(i + 1) % pattern != 0 for i in range(num_layers)])
    elif config.flag("use_qk_norm", False):
        attention = replace(attention, qk_norm="full")
    layers = GqaStack(attention=attention, windows=windows, norms=("input_layernorm",)).dense(
        read_ffn(config)
    )
    return CausalLm(config=config, tied=tied(config, True)).parts(layers)


FAMILY = Family(
    model_types=("cohere", "cohere2"),
    architectures=("CohereForCausalLM", "Cohere2ForCausalLM"),
    build=_build,
)
