"""Llama 4: chunked attention with full layers between, experts with one shared, a vision tower.

Source: transformers Llama4ForConditionalGeneration and Llama4ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import Ffn, read_moe
from planner.frontend.model_blocks.transformer import GqaStack
from planner.frontend.model_blocks.vision import Encoder, patches_per_side, vision_map, vision_param
from planner.ir.model_graph import Op


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    num_layers = text.layers()
    bias = text.flag("attention_bias", False)
    attention = replace(read_gqa(text), qkv_bias=bias, out_bias=bias, chunked=True)
    moe = replace(
        read_moe(text, inter_key="intermediate_size"),
        shared_inter=text.count("intermediate_size"),
        shared_name="shared_expert",
        prefix="feed_forward",
        router_name="router",
    )
    stack = GqaStack(attention=attention, windows=_windows(text, num_layers))
    layers = stack.mixed(_sparse(text, num_layers), moe, lambda: _dense(text))
    frame = CausalLm(config=text, tied=tied(config, False))
    return frame.parts(layers, extra=_vision(config, attention.hidden))


def _dense(text: ConfigReader) -> Ffn:
    return Ffn(
        hidden=text.count("hidden_size"), inter=text.count("intermediate_size_mlp"), prefix="feed_forward"
    )


def _windows(text: ConfigReader, num_layers: int) -> tuple[int, ...]:
    types = text.strings("layer_types")
    if types is not None:
        if len(types) != num_layers or not set(types) <= {"chunked_attention", "full_attention"}:
            raise text.refuse("layer_types", "is not one of chunked_attention and full_attention per layer")
        chunked = tuple(name == "chunked_attention" for name in types)
    else:
        every = text.count("no_rope_layer_interval", 4)
        rope = text.counts("no_rope_layers") or tuple(int((i + 1) % every != 0) for i in range(num_layers))
        if len(rope) != num_layers:
            raise text.refuse("no_rope_layers", f"does not list all {num_layers} layers")
        chunked = tuple(flag != 0 for flag in rope)
    chunk = text.count("attention_chunk_size", 8192)
    return tuple(chunk if flag else 0 for flag in chunked)


def _sparse(text: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    listed = text.counts("moe_layers")
    if listed is not None:
        return tuple(i in set(listed) for i in range(num_layers))
    step = text.count("interleave_moe_layer_step", 1)
    return tuple((i + 1) % step == 0 for i in range(num_layers))


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    hidden, inter = vision.count("hidden_size"), vision.count("intermediate_size")
    adapter, out = vision.count("projector_input_dim"), vision.count("projector_output_dim")
    patch = vision.count("num_channels", 3) * vision.count("patch_size") ** 2
    encoder = Encoder(hidden=hidden, inter=inter, num_layers=vision.layers())
    return (
        vision_map("vision_model.patch_embedding", patch, hidden, bias=False),
        vision_param("vision_model.class_embedding", hidden),
        vision_param("vision_model.positional_embedding", (patches_per_side(vision) ** 2 + 1) * hidden),
        vision_param("vision_model.layernorms", 4 * hidden),
        *encoder.ops(),
        vision_map("vision_model.vision_adapter.fc1", inter, adapter, bias=False),
        vision_map("vision_model.vision_adapter.fc2", out, out, bias=False),
        vision_map("multi_modal_projector", vision.count("vision_output_dim"), text_hidden, bias=False),
    )


FAMILY = Family(
    model_types=("llama4", "llama4_text"),
    architectures=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
    build=_build,
)
