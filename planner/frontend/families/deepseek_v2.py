"""DeepSeek-V2 and V2-Lite: latent attention, dense first layers, shared experts.

Source: transformers DeepseekV2ForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_mla
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_layers, read_deepseek_moe


def _build(config: ConfigReader) -> ModelParts:
    attention = read_mla(config).ops()
    moe = read_deepseek_moe(config, router_buffer=False)
    layers = deepseek_layers(config, lambda _: attention, moe)
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("deepseek_v2",),
    architectures=("DeepseekV2ForCausalLM",),
    build=_build,
)
