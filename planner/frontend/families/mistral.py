"""Mistral and Ministral: Llama without biases, with a window over all layers or by layer type.

Source: transformers MistralForCausalLM, MinistralForCausalLM, Ministral3ForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    windows = layer_windows(config, num_layers, [config.has("sliding_window")] * num_layers)
    layers = GqaStack(attention=read_gqa(config), windows=windows).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("mistral", "ministral", "ministral3"),
    architectures=("MistralForCausalLM", "MinistralForCausalLM", "Ministral3ForCausalLM"),
    build=_build,
)
