"""MiMo-7B: Qwen 2 layers with multi-token prediction.

Source: XiaomiMiMo/MiMo-7B-Base modeling_mimo.py (subclass of Qwen2ForCausalLM).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen_windows
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_gqa(config), qkv_bias=config.flag("attention_bias", True))
    windows = qwen_windows(config, config.layers())
    layers = GqaStack(attention=attention, windows=windows).dense(read_ffn(config))
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


FAMILY = Family(
    model_types=("mimo",),
    architectures=("MiMoForCausalLM",),
    build=_build,
)
