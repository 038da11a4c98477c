"""BLOOM: ALiBi positions, layer norms, biases, a norm after the embedding, a tied head.

Source: transformers BloomForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, norm, tied
from planner.frontend.model_blocks.ffn import Ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(
        read_gqa(config),
        qkv_bias=True,
        out_bias=True,
        prefix="self_attention",
        names=("query_key_value", "query_key_value", "query_key_value", "dense"),
    )
    hidden = attention.hidden
    names = ("", "dense_h_to_4h", "dense_4h_to_h")
    ffn = Ffn(hidden=hidden, inter=4 * hidden, gated=False, bias=True, names=names)
    layers = GqaStack(attention=attention, windows=(0,) * config.layers(), norm_bias=True).dense(ffn)
    return CausalLm(
        config=config,
        tied=tied(config, True),
        norm_bias=True,
        embedding_extra=(norm("word_embeddings_layernorm", hidden, bias=True),),
    ).parts(layers)


FAMILY = Family(
    model_types=("bloom",),
    architectures=("BloomForCausalLM",),
    build=_build,
)
