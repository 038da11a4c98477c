"""Qwen 3.5 and 3.6: the hybrid of Qwen3-Next, dense or with experts, and a vision tower.

Source: transformers Qwen3_5ForConditionalGeneration and Qwen3_5MoeForConditionalGeneration.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp
from planner.frontend.model_blocks.qwen_hybrid import qwen_hybrid
from planner.frontend.model_blocks.vision import qwen_vision


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    layers = qwen_hybrid(text)
    extra = qwen_vision(config.section("vision_config")) if config.has("vision_config") else ()
    frame = CausalLm(config=text, tied=tied(config, False))
    return frame.parts(layers, extra=extra, mtp_layers=deepseek_mtp(text, layers))


FAMILY = Family(
    model_types=("qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"),
    architectures=(
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
        "Qwen3_5ForCausalLM",
        "Qwen3_5MoeForCausalLM",
    ),
    build=_build,
)
