"""Qwen3-Next: three gated delta net layers to one of gated attention, many experts.

Source: transformers Qwen3NextForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp
from planner.frontend.model_blocks.qwen_hybrid import qwen_hybrid


def _build(config: ConfigReader) -> ModelParts:
    layers = qwen_hybrid(config)
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


FAMILY = Family(
    model_types=("qwen3_next",),
    architectures=("Qwen3NextForCausalLM",),
    build=_build,
)
