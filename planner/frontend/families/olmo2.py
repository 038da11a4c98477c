"""OLMo 2 and 3: norms after each block and over all query and key heads; 3 adds windows.

Source: transformers Olmo2ForCausalLM and Olmo3ForCausalLM (three windowed layers, then a full one).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import POST_NORMS, GqaStack


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias, qk_norm="full")
    windows = (0,) * num_layers
    if config.text("model_type", "olmo2") == "olmo3":
        windows = layer_windows(config, num_layers, [(i + 1) % 4 != 0 for i in range(num_layers)])
    layers = GqaStack(attention=attention, windows=windows, norms=POST_NORMS).dense(read_ffn(config))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


FAMILY = Family(
    model_types=("olmo2", "olmo3"),
    architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    build=_build,
)
