"""Phi 1 to 2: attention and feed-forward in parallel after one layer norm, biases everywhere.

Source: transformers PhiForCausalLM.
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
    attention = replace(
        read_gqa(config),
        qkv_bias=True,
        out_bias=True,
        qk_norm="head" if config.flag("qk_layernorm", False) else "",
        norm_bias=True,
        names=("q_proj", "k_proj", "v_proj", "dense"),
    )
    ffn = replace(read_ffn(config, bias=True), gated=False, names=("", "fc1", "fc2"))
    stack = GqaStack(
        attention=attention, windows=(0,) * config.layers(), norms=("input_layernorm",), norm_bias=True
    )
    frame = CausalLm(config=config, tied=tied(config, False), norm_bias=True, head_bias=True)
    return frame.parts(stack.dense(ffn))


FAMILY = Family(
    model_types=("phi",),
    architectures=("PhiForCausalLM",),
    build=_build,
)
