"""StableLM 2: Llama with layer norms, optional biases and parallel blocks.

Source: transformers StableLmForCausalLM (with `qk_layernorm` a norm per head, without bias).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import PRE_NORMS, GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_gqa(config), qkv_bias=config.flag("use_qkv_bias", False))
    if config.flag("qk_layernorm", False):
        attention = replace(attention, qk_norm="full")
    norms = PRE_NORMS[:1] if config.flag("use_parallel_residual", False) else PRE_NORMS
    stack = GqaStack(attention=attention, windows=(0,) * config.layers(), norms=norms, norm_bias=True)
    frame = CausalLm(config=config, tied=tied(config, False), norm_bias=True)
    return frame.parts(stack.dense(read_ffn(config)))


FAMILY = Family(
    model_types=("stablelm",),
    architectures=("StableLmForCausalLM",),
    build=_build,
)
