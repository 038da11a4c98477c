"""Qwen 2 and 2.5: Llama with biases on query, key and value, and optional windows.

Source: transformers Qwen2ForCausalLM (windows start at layer `max_window_layers`).
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
    attention = replace(read_gqa(config), qkv_bias=True)
    windows = qwen_windows(config, config.layers())
    layers = GqaStack(attention=attention, windows=windows).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("qwen2",),
    architectures=("Qwen2ForCausalLM",),
    build=_build,
)
