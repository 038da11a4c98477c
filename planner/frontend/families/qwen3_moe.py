"""Qwen 3 MoE: Qwen 3 attention, routed experts, no shared expert.

Source: transformers Qwen3MoeForCausalLM (one window for all layers where switched on).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, pre_norm_layer, stack
from planner.frontend.model_blocks.qwen import ffn_of_layer, qwen3_attention, qwen_moe, sparse_layers
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    sparse = sparse_layers(config, num_layers)
    window = config.optional_count("sliding_window") if config.flag("use_sliding_window", False) else 0
    attention = replace(qwen3_attention(config), window=window or 0)
    moe = qwen_moe(config, shared=False)

    def layer(index: int) -> Layer:
        label, ffn = ffn_of_layer(config, moe, sparse=sparse[index])
        return pre_norm_layer(f"attention+{label}", attention.hidden, attention.ops(), ffn)

    layers = stack(num_layers, layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(model_types=("qwen3_moe",), architectures=("Qwen3MoeForCausalLM",), build=_build)
