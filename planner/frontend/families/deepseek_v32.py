"""DeepSeek-V3.2: V3 with a sparse indexer in every layer.

Source: transformers DeepseekV32ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_indexer, read_mla
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_layers, deepseek_mtp, read_deepseek_moe


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_mla(config), indexer=read_indexer(config)).ops()
    layers = deepseek_layers(config, lambda _: attention, read_deepseek_moe(config))
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


FAMILY = Family(
    model_types=("deepseek_v32",),
    architectures=("DeepseekV32ForCausalLM",),
    build=_build,
)
