"""Llama 1 to 3 and the many models built the same way.

Source: transformers LlamaForCausalLM (biases by `attention_bias` and `mlp_bias`).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, pre_norm_layer, stack
from planner.frontend.model_blocks.ffn import read_ffn


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    ffn = read_ffn(config, bias=config.flag("mlp_bias", False))
    layer = pre_norm_layer("attention+ffn", attention.hidden, attention.ops(), ffn.ops())
    layers = stack(config.layers(), lambda _: layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(
    model_types=("llama",),
    architectures=("LlamaForCausalLM", "LLaMAForCausalLM"),
    build=_build,
)
