"""GPT-2: learned positions, layer norms, biases, a tied head.

Source: transformers GPT2LMHeadModel.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import Ffn
from planner.frontend.model_blocks.transformer import GqaStack
from planner.ir.model_graph import Small


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(
        read_gqa(config),
        qkv_bias=True,
        out_bias=True,
        prefix="attn",
        names=("c_attn", "c_attn", "c_attn", "c_proj"),
    )
    hidden = attention.hidden
    inter = config.optional_count("intermediate_size") or 4 * hidden
    ffn = Ffn(hidden=hidden, inter=inter, gated=False, bias=True, names=("", "c_fc", "c_proj"))
    layers = GqaStack(attention=attention, windows=(0,) * config.layers(), norm_bias=True).dense(ffn)
    positions = config.count("max_position_embeddings") * hidden
    return CausalLm(
        config=config,
        tied=tied(config, True),
        norm_bias=True,
        embedding_extra=(Small(name="wpe", num_params=positions),),
    ).parts(layers)


FAMILY = Family(
    model_types=("gpt2",),
    architectures=("GPT2LMHeadModel",),
    build=_build,
)
