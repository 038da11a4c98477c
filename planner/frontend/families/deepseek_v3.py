"""DeepSeek-V3 and R1, and models built the same way: Kimi K2, GLM-4.7-Flash, Mistral 4.

Source: transformers DeepseekV3ForCausalLM; the router's bias is a buffer, no parameter.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_mla
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_layers, deepseek_mtp, read_deepseek_moe


def _build(config: ConfigReader) -> ModelParts:
    attention = read_mla(config).ops()
    layers = deepseek_layers(config, lambda _: attention, read_deepseek_moe(config))
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


FAMILY = Family(
    model_types=("deepseek_v3", "kimi_k2", "glm4_moe_lite", "mistral4"),
    architectures=("DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "Mistral4ForCausalLM"),
    build=_build,
)
