"""Qwen 3 MoE: Qwen 3 attention, routed experts, no shared expert.

Source: transformers Qwen3MoeForCausalLM (one window for all layers where switched on).
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, same_window, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen3_attention, qwen_moe, sparse_layers
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    slides = config.flag("use_sliding_window", False)
    windows = same_window(config, num_layers) if slides else (0,) * num_layers
    layers = GqaStack(attention=qwen3_attention(config), windows=windows).mixed(
        sparse_layers(config, num_layers), qwen_moe(config, shared=False), lambda: read_ffn(config)
    )
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("qwen3_moe",),
    architectures=("Qwen3MoeForCausalLM",),
    build=_build,
)
