"""Qwen 1.5 and 2 MoE: routed experts and one gated shared expert.

Source: transformers Qwen2MoeForCausalLM (windows on even layers below `max_window_layers`).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen_moe, sparse_layers
from planner.frontend.model_blocks.transformer import GqaStack


def _windows(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    if not config.flag("use_sliding_window", False):
        return (0,) * num_layers
    last = config.size("max_window_layers", 28)
    return layer_windows(config, num_layers, [i % 2 == 0 and i < last for i in range(num_layers)])


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    attention = replace(read_gqa(config), qkv_bias=config.flag("qkv_bias", True))
    layers = GqaStack(attention=attention, windows=_windows(config, num_layers)).mixed(
        sparse_layers(config, num_layers), qwen_moe(config, shared=True), lambda: read_ffn(config)
    )
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("qwen2_moe",),
    architectures=("Qwen2MoeForCausalLM",),
    build=_build,
)
