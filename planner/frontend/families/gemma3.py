"""Gemma 3: norms per head, one full layer in six, a SigLIP tower in the larger ones.

Source: transformers Gemma3ForConditionalGeneration and Gemma3ForCausalLM; published files leave
many keys to the class defaults, which are given here.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import SANDWICH_NORMS, GqaStack
from planner.frontend.model_blocks.vision import siglip_tower, vision_map, vision_param
from planner.ir.model_graph import Op

_TEXT_DEFAULTS = {
    "vocab_size": 262_208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "sliding_window": 4096,
}


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    text = text.filled(_TEXT_DEFAULTS)
    num_layers = text.layers()
    pattern_key = (
        "_sliding_window_pattern" if text.has("_sliding_window_pattern") else "sliding_window_pattern"
    )
    pattern = text.count(pattern_key, 6)
    windows = layer_windows(text, num_layers, [(i + 1) % pattern != 0 for i in range(num_layers)])
    bias = text.flag("attention_bias", False)
    attention = replace(read_gqa(text), qkv_bias=bias, out_bias=bias, qk_norm="head")
    layers = GqaStack(attention=attention, windows=windows, norms=SANDWICH_NORMS).dense(read_ffn(text))
    holder = config if config.has("tie_word_embeddings") else text
    frame = CausalLm(config=text, tied=tied(holder, True))
    return frame.parts(layers, extra=_vision(config, attention.hidden))


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    hidden = vision.count("hidden_size")
    projector = (
        vision_map("multi_modal_projector.mm_input_projection", hidden, text_hidden, bias=False),
        vision_param("multi_modal_projector.mm_soft_emb_norm", hidden),
    )
    return (*siglip_tower(vision), *projector)


FAMILY = Family(
    model_types=("gemma3", "gemma3_text"),
    architectures=("Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"),
    build=_build,
)
