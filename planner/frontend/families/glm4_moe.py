"""GLM-4.5 to 4.7: grouped-query attention with experts of the DeepSeek kind.

Source: transformers Glm4MoeForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp, read_deepseek_moe, sparse_by_depth
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    attention = replace(
        read_gqa(config),
        qkv_bias=config.flag("attention_bias", False),
        qk_norm="head" if config.flag("use_qk_norm", False) else "",
    )
    layers = GqaStack(attention=attention, windows=(0,) * num_layers).mixed(
        sparse_by_depth(config, num_layers), read_deepseek_moe(config), lambda: read_ffn(config)
    )
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


FAMILY = Family(
    model_types=("glm4_moe",),
    architectures=("Glm4MoeForCausalLM",),
    build=_build,
)
