"""Mistral and Ministral: Llama without biases, with a window over all layers or by layer type.

Source: transformers MistralForCausalLM, MinistralForCausalLM, Ministral3ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, pre_norm_layer, stack
from planner.frontend.model_blocks.ffn import read_ffn
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    windows = layer_windows(config, num_layers, [config.has("sliding_window")] * num_layers)
    attention, ffn = read_gqa(config), read_ffn(config)

    def layer(index: int) -> Layer:
        ops = replace(attention, window=windows[index]).ops()
        return pre_norm_layer("attention+ffn", attention.hidden, ops, ffn.ops())

    layers = stack(num_layers, layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(
    model_types=("mistral", "ministral", "ministral3"),
    architectures=("MistralForCausalLM", "MinistralForCausalLM", "Ministral3ForCausalLM"),
    build=_build,
)
