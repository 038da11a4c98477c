"""Mixtral: Mistral attention with routed experts in every layer.

Source: transformers MixtralForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, same_window, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    moe = replace(read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe")
    windows = same_window(config, config.layers())
    layers = GqaStack(attention=read_gqa(config), windows=windows).moe(moe)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("mixtral",),
    architectures=("MixtralForCausalLM",),
    build=_build,
)
