"""What the Qwen generations share: their window switch and which layers hold experts."""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import layer_windows
from planner.frontend.model_blocks.ffn import Moe, read_moe


def qwen_windows(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    """Return the window of each layer; `use_sliding_window` false switches all windows off."""
    if not config.flag("use_sliding_window", False):
        return (0,) * num_layers
    first = config.size("max_window_layers", 28)
    slides = config.has("sliding_window")
    return layer_windows(config, num_layers, [slides and i >= first for i in range(num_layers)])


def qwen3_attention(config: ConfigReader) -> GqaAttention:
    """Return attention with a norm per query and key head; biases by `attention_bias`."""
    bias = config.flag("attention_bias", False)
    return replace(read_gqa(config), qkv_bias=bias, out_bias=bias, qk_norm="head")


def sparse_layers(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    """Return which layers hold experts, from `mlp_only_layers` and `decoder_sparse_step`."""
    dense = set(config.counts("mlp_only_layers") or ())
    step = config.count("decoder_sparse_step", 1)
    return tuple(i not in dense and (i + 1) % step == 0 for i in range(num_layers))


def qwen_moe(config: ConfigReader, *, shared: bool) -> Moe:
    """Return the experts, with one gated shared expert where `shared`."""
    moe = read_moe(config)
    if not shared:
        return moe
    inter = config.count("shared_expert_intermediate_size")
    return replace(moe, shared_inter=inter, shared_gate=True, shared_name="shared_expert")
