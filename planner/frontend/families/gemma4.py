"""Gemma 4: full layers with wider heads, shared caches, per-layer inputs, experts beside a block.

Source: transformers Gemma4ForConditionalGeneration and Gemma4ForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import (
    CausalLm,
    ModelParts,
    layer_windows,
    norm,
    stack,
    table,
    tied,
)
from planner.frontend.model_blocks.ffn import read_ffn, read_moe
from planner.frontend.model_blocks.transformer import SANDWICH_NORMS, block_layer
from planner.frontend.model_blocks.vision import Encoder, vision_map, vision_param
from planner.ir.model_graph import Layer, Linear, Op, Small

_TEXT_DEFAULTS = {
    "hidden_size_per_layer_input": 256,
    "vocab_size_per_layer_input": 262_144,
    "global_head_dim": 512,
    "num_kv_shared_layers": 0,
}


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    text = text.filled(_TEXT_DEFAULTS)
    num_layers, hidden = text.layers(), text.count("hidden_size")
    windows = _windows(text, num_layers)
    first_shared = num_layers - text.size("num_kv_shared_layers")

    def layer(index: int) -> Layer:
        shares = index >= first_shared
        attention = replace(_attention(text, windows[index]), shares_kv=shares)
        return _layer(text, attention, wide=shares and text.flag("use_double_wide_mlp", False))

    holder = config if config.has("tie_word_embeddings") else text
    frame = CausalLm(
        config=text, tied=tied(holder, True), embedding_extra=_per_layer_inputs(text, num_layers)
    )
    if config.has("audio_config"):
        config.remark("the audio tower is not counted")
    return frame.parts(stack(num_layers, layer), extra=_vision(config, hidden))


def _windows(text: ConfigReader, num_layers: int) -> tuple[int, ...]:
    windows = layer_windows(text, num_layers, [(i + 1) % 6 != 0 for i in range(num_layers)])
    return (*windows[:-1], 0)


def _attention(text: ConfigReader, window: int) -> GqaAttention:
    bias = text.flag("attention_bias", False)
    attention = replace(read_gqa(text), qkv_bias=bias, out_bias=bias, qk_norm="head", window=window)
    if window:
        return attention
    value_is_key = text.flag("attention_k_eq_v", False)
    kv_heads = text.optional_count("num_global_key_value_heads") if value_is_key else None
    return replace(
        attention,
        head_dim=text.count("global_head_dim"),
        num_kv_heads=kv_heads or attention.num_kv_heads,
        value_is_key=value_is_key,
    )


def _layer(text: ConfigReader, attention: GqaAttention, *, wide: bool) -> Layer:
    hidden = attention.hidden
    ffn = read_ffn(text)
    ops: tuple[Op, ...] = replace(ffn, inter=2 * ffn.inter if wide else ffn.inter).ops()
    norms, label = SANDWICH_NORMS, "ffn"
    if text.flag("enable_moe_block", False):
        moe = replace(read_moe(text), prefix="moe", router_name="router.proj")
        scales = Small(name="router.scales", num_params=hidden + moe.num_experts)
        ops, label = (*ops, scales, *moe.ops()), "ffn+moe"
        norms = (
            *norms,
            "post_feedforward_layernorm_1",
            "post_feedforward_layernorm_2",
            "pre_feedforward_layernorm_2",
        )
    width = text.size("hidden_size_per_layer_input")
    if width:
        ops = (
            *ops,
            _plain("per_layer_input_gate", hidden, width),
            _plain("per_layer_projection", width, hidden),
        )
        norms = (*norms, "post_per_layer_input_norm")
    scalar = Small(name="layer_scalar", num_params=1, buffer=True)
    return block_layer(f"attention+{label}", attention.ops(), (*ops, scalar), hidden=hidden, norms=norms)


def _plain(name: str, in_features: int, out_features: int) -> Linear:
    return Linear(
        name=name, in_features=in_features, out_features=out_features, shard="replicated", slot="other"
    )


def _per_layer_inputs(text: ConfigReader, num_layers: int) -> tuple[Op, ...]:
    width = text.size("hidden_size_per_layer_input")
    if not width:
        return ()
    hidden, vocab = text.count("hidden_size"), text.count("vocab_size_per_layer_input")
    return (
        table("embed_tokens_per_layer", vocab, num_layers * width),
        replace(_plain("per_layer_model_projection", hidden, num_layers * width), quantised=False),
        norm("per_layer_projection_norm", width),
    )


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    hidden, head_dim = vision.count("hidden_size"), vision.count("head_dim")
    encoder = Encoder(
        hidden=hidden,
        inter=vision.count("intermediate_size"),
        num_layers=vision.layers(),
        attention_bias=vision.flag("attention_bias", False),
        ffn_bias=False,
        gated=True,
        norm_bias=False,
        num_norms=4,
        layer_params=2 * head_dim,
        attention_width=vision.count("num_attention_heads") * head_dim,
    )
    return (
        vision_map("vision_tower.input_proj", 3 * vision.count("patch_size") ** 2, hidden, bias=False),
        vision_param("vision_tower.position_table", 2 * vision.count("position_embedding_size") * hidden),
        *encoder.ops(),
        vision_map("embed_vision.embedding_projection", hidden, text_hidden, bias=False),
    )


FAMILY = Family(
    model_types=("gemma4", "gemma4_text"),
    architectures=("Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"),
    build=_build,
)
