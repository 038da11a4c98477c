"""Qwen 1.5 and 2 MoE: routed experts and one gated shared expert.

Source: transformers Qwen2MoeForCausalLM (windows on even layers below `max_window_layers`).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, pre_norm_layer, stack
from planner.frontend.model_blocks.qwen import ffn_of_layer, qwen_moe, sparse_layers
from planner.ir.model_graph import Layer


def _windows(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    if not config.flag("use_sliding_window", False):
        return (0,) * num_layers
    last = config.size("max_window_layers", 28)
    return layer_windows(config, num_layers, [i % 2 == 0 and i < last for i in range(num_layers)])


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    windows, sparse = _windows(config, num_layers), sparse_layers(config, num_layers)
    attention = replace(read_gqa(config), qkv_bias=config.flag("qkv_bias", True))
    moe = qwen_moe(config, shared=True)

    def layer(index: int) -> Layer:
        label, ffn = ffn_of_layer(config, moe, sparse=sparse[index])
        ops = replace(attention, window=windows[index]).ops()
        return pre_norm_layer(f"attention+{label}", attention.hidden, ops, ffn)

    layers = stack(num_layers, layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(model_types=("qwen2_moe",), architectures=("Qwen2MoeForCausalLM",), build=_build)
