"""Qwen 3: norms per query and key head, own head size, no biases by default.

Source: transformers Qwen3ForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen3_attention, qwen_windows
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    windows = qwen_windows(config, config.layers())
    layers = GqaStack(attention=qwen3_attention(config), windows=windows).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("qwen3",),
    architectures=("Qwen3ForCausalLM",),
    build=_build,
)
