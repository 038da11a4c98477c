"""Mixtral: Mistral attention with routed experts in every layer.

Source: transformers MixtralForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, pre_norm_layer, stack
from planner.frontend.model_blocks.ffn import read_moe


def _build(config: ConfigReader) -> ModelParts:
    window = config.optional_count("sliding_window") or 0
    attention = replace(read_gqa(config), window=window)
    moe = replace(read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe")
    layer = pre_norm_layer("attention+moe", attention.hidden, attention.ops(), moe.ops())
    layers = stack(config.layers(), lambda _: layer)
    return CausalLm(config=config, tied=config.flag("tie_word_embeddings", False)).parts(layers)


FAMILY = Family(model_types=("mixtral",), architectures=("MixtralForCausalLM",), build=_build)
