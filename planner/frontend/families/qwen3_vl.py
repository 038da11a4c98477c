"""Qwen3-VL: a Qwen 3 decoder, dense or with experts, and a vision tower.

Source: transformers Qwen3VLForConditionalGeneration and Qwen3VLMoeForConditionalGeneration.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen3_attention, qwen_moe, sparse_layers
from planner.frontend.model_blocks.transformer import GqaStack
from planner.frontend.model_blocks.vision import qwen_vision


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config")
    num_layers = text.layers()
    stack = GqaStack(attention=qwen3_attention(text), windows=(0,) * num_layers)
    if text.has("num_experts"):
        moe = qwen_moe(text, shared=False)
        layers = stack.mixed(sparse_layers(text, num_layers), moe, lambda: read_ffn(text))
    else:
        layers = stack.dense(read_ffn(text))
    extra = qwen_vision(config.section("vision_config")) if config.has("vision_config") else ()
    frame = CausalLm(config=text, tied=tied(config, False))
    return frame.parts(layers, extra=extra)


FAMILY = Family(
    model_types=("qwen3_vl", "qwen3_vl_moe"),
    architectures=("Qwen3VLForConditionalGeneration", "Qwen3VLMoeForConditionalGeneration"),
    build=_build,
)
