"""Qwen 2 and 2.5: Llama with biases on query, key and value, and optional windows.

Source: transformers Qwen2ForCausalLM (windows start at layer `max_window_layers`).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, pre_norm_layer, stack
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen_windows
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    windows = qwen_windows(config, num_layers)
    attention, ffn = replace(read_gqa(config), qkv_bias=True), read_ffn(config)

    def layer(index: int) -> Layer:
        ops = replace(attention, window=windows[index]).ops()
        return pre_norm_layer("attention+ffn", attention.hidden, ops, ffn.ops())

    layers = stack(num_layers, layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(model_types=("qwen2",), architectures=("Qwen2ForCausalLM",), build=_build)
