"""Phi 3, 3.5 and 4: Llama shapes with one window for all layers.

Source: transformers Phi3ForCausalLM (fused query-key-value and gate-up maps).
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, same_window, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    windows = same_window(config, config.layers())
    layers = GqaStack(attention=read_gqa(config), windows=windows).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("phi3",),
    architectures=("Phi3ForCausalLM",),
    build=_build,
)
