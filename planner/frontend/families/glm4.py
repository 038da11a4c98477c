"""GLM-4 dense models: biases on query, key and value; the 0414 generation has four norms.

Source: transformers GlmForCausalLM and Glm4ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import PRE_NORMS, GqaStack

_GLM4_NORMS = (*PRE_NORMS, "post_self_attn_layernorm", "post_mlp_layernorm")


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_gqa(config), qkv_bias=config.flag("attention_bias", True))
    norms = PRE_NORMS if config.text("model_type", "glm4") == "glm" else _GLM4_NORMS
    stack = GqaStack(attention=attention, windows=(0,) * config.layers(), norms=norms)
    return CausalLm(config=config, tied=tied(config, False)).parts(stack.dense(read_ffn(config)))


FAMILY = Family(
    model_types=("glm4", "glm"),
    architectures=("Glm4ForCausalLM", "GlmForCausalLM"),
    build=_build,
)
