"""SmolLM 3: Llama with a tied head.

Source: transformers SmolLM3ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen_windows
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    ffn = read_ffn(config, bias=config.flag("mlp_bias", False))
    windows = qwen_windows(config, config.layers())
    layers = GqaStack(attention=attention, windows=windows).dense(ffn)
    return CausalLm(config=config, tied=tied(config, True)).parts(layers)


FAMILY = Family(
    model_types=("smollm3",),
    architectures=("SmolLM3ForCausalLM",),
    build=_build,
)
