"""MiniMax M2: norms over all query and key heads, experts in every layer.

Source: transformers MiniMaxM2ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_gqa(config), qk_norm="full")
    moe = replace(
        read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe", router_buffer=True
    )
    layers = GqaStack(attention=attention, windows=(0,) * config.layers()).moe(moe)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("minimax_m2",),
    architectures=("MiniMaxM2ForCausalLM",),
    build=_build,
)
