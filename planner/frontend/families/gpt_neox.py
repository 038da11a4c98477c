"""GPT-NeoX and Pythia: layer norms and biases.

Source: transformers GPTNeoXForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("attention_bias", True)
    attention = replace(
        read_gqa(config),
        qkv_bias=bias,
        out_bias=bias,
        prefix="attention",
        names=("query_key_value", "query_key_value", "query_key_value", "dense"),
    )
    names = ("", "dense_h_to_4h", "dense_4h_to_h")
    ffn = replace(read_ffn(config, bias=True), gated=False, names=names)
    layers = GqaStack(attention=attention, windows=(0,) * config.layers(), norm_bias=True).dense(ffn)
    return CausalLm(config=config, tied=tied(config, False), norm_bias=True).parts(layers)


FAMILY = Family(
    model_types=("gpt_neox",),
    architectures=("GPTNeoXForCausalLM",),
    build=_build,
)
