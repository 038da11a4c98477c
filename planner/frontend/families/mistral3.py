"""Mistral Small 3.1 and 3.2, Ministral 3: a Mistral decoder with a Pixtral tower.

Source: transformers Mistral3ForConditionalGeneration.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack
from planner.frontend.model_blocks.vision import pixtral_tower, vision_map, vision_param
from planner.ir.model_graph import Op


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config")
    num_layers = text.layers()
    windows = layer_windows(text, num_layers, [text.has("sliding_window")] * num_layers)
    attention = read_gqa(text)
    layers = GqaStack(attention=attention, windows=windows).dense(read_ffn(text))
    holder = config if config.has("tie_word_embeddings") else text
    frame = CausalLm(config=text, tied=tied(holder, False))
    return frame.parts(layers, extra=_vision(config, attention.hidden))


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    hidden, merge = vision.count("hidden_size"), config.count("spatial_merge_size", 2)
    bias = config.flag("multimodal_projector_bias", False)
    return (
        *pixtral_tower(vision),
        vision_param("multi_modal_projector.norm", hidden),
        vision_map("multi_modal_projector.patch_merger", hidden * merge**2, hidden, bias=False),
        vision_map("multi_modal_projector.linear_1", hidden, text_hidden, bias=bias),
        vision_map("multi_modal_projector.linear_2", text_hidden, text_hidden, bias=bias),
    )


FAMILY = Family(
    model_types=("mistral3",),
    architectures=("Mistral3ForConditionalGeneration",),
    build=_build,
)
