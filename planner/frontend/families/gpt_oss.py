"""gpt-oss: sinks and biases in attention, alternating windows, experts with biases.

Source: transformers GptOssForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    windows = layer_windows(config, num_layers, [i % 2 == 0 for i in range(num_layers)])
    bias = config.flag("attention_bias", True)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias, sinks=True)
    moe = replace(
        read_moe(config, inter_key="intermediate_size"),
        expert_bias=True,
        router_bias=True,
        router_name="router",
    )
    layers = GqaStack(attention=attention, windows=windows).moe(moe)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("gpt_oss",),
    architectures=("GptOssForCausalLM",),
    build=_build,
)
