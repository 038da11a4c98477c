"""MiMo-V2-Flash: windowed layers with more KV heads and sinks, values narrower than keys.

Source: transformers MiMoV2FlashForCausalLM; windowed layers have twice the KV heads unless stated.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, layer_windows, stack, tied
from planner.frontend.model_blocks.deepseek import read_deepseek_moe, sparse_by_depth
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    slides = _slides(config, num_layers)
    full = replace(
        read_gqa(config),
        v_head_dim=config.count("v_head_dim"),
        qkv_bias=config.flag("attention_bias", False),
        sinks=config.flag("add_full_attention_sink_bias", False),
    )
    windowed = _windowed(config, full).ops() if any(slides) else ()
    sparse = sparse_by_depth(config, num_layers, dense_default=1)
    experts = read_deepseek_moe(config).ops()
    dense = () if all(sparse) else read_ffn(config).ops()

    def layer(index: int) -> Layer:
        mixer = windowed if slides[index] else full.ops()
        label, ffn = ("moe", experts) if sparse[index] else ("ffn", dense)
        return block_layer(f"attention+{label}", mixer, ffn, hidden=full.hidden)

    return CausalLm(config=config, tied=tied(config, False)).parts(stack(num_layers, layer))


def _slides(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    pattern = config.counts("hybrid_layer_pattern")
    if pattern is None:
        default = [i != 0 and (i + 1) % 6 != 0 for i in range(num_layers)]
        return tuple(window > 0 for window in layer_windows(config, num_layers, default))
    if len(pattern) != num_layers or not set(pattern) <= {0, 1}:
        raise config.refuse("hybrid_layer_pattern", "is not one 0 or 1 per layer")
    return tuple(flag == 1 for flag in pattern)


def _windowed(config: ConfigReader, full: GqaAttention) -> GqaAttention:
    if config.has("sliding_window_size"):
        window = config.count("sliding_window_size") + 1
    else:
        window = config.count("sliding_window")
    return replace(
        full,
        num_heads=config.optional_count("swa_num_attention_heads") or full.num_heads,
        num_kv_heads=config.optional_count("swa_num_key_value_heads") or 2 * full.num_kv_heads,
        head_dim=config.optional_count("swa_head_dim") or full.head_dim,
        v_head_dim=config.optional_count("swa_v_head_dim") or full.v_head_dim,
        sinks=config.flag("add_swa_attention_sink_bias", True),
        window=window,
    )


FAMILY = Family(
    model_types=("mimo_v2_flash",),
    architectures=("MiMoV2FlashForCausalLM",),
    build=_build,
)
