"""DeepSeek-V4: compressed attention of two strengths, hyper-connections, experts.

Source: transformers DeepseekV4ForCausalLM (compress_ratios 0 window only, 4 sparse,
128 heavy; always one shared expert).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.compressed_attention import HyperConnection, read_compressed_attention
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer

_RATIOS = {
    "sliding_attention": "",
    "compressed_sparse_attention": "compress_rate_csa",
    "heavily_compressed_attention": "compress_rate_hca",
}
_RATIO_DEFAULTS = {"": 0, "compress_rate_csa": 4, "compress_rate_hca": 128}


def _build(config: ConfigReader) -> ModelParts:
    num_layers, hidden = config.layers(), config.count("hidden_size")
    ratios = _ratios(config, num_layers)
    attention = read_compressed_attention(config)
    blocks = {ratio: replace(attention, ratio=ratio).ops() for ratio in sorted(set(ratios))}
    streams = HyperConnection(hidden=hidden, num_streams=config.count("hc_mult"))
    num_hashed = _num_hashed(config, num_layers)
    moe = read_moe(config)
    moe = replace(moe, shared_inter=moe.inter, prefix="ffn")

    def layer(index: int) -> Layer:
        experts = replace(moe, router_buffer=index >= num_hashed).ops()
        around = (*streams.ops("attn_hc"), *streams.ops("ffn_hc"))
        return block_layer("attention+moe", (*around, *blocks[ratios[index]]), experts, hidden=hidden)

    frame = CausalLm(config=config, tied=tied(config, False), head_extra=streams.head_ops())
    layers = stack(num_layers, layer)
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


def _num_hashed(config: ConfigReader, num_layers: int) -> int:
    types = config.strings("mlp_layer_types")
    if types is None:
        return min(config.size("num_hash_layers", 3), num_layers)
    return sum(name == "hash_moe" for name in types)


def _ratios(config: ConfigReader, num_layers: int) -> tuple[int, ...]:
    listed = config.counts("compress_ratios")
    if listed is not None:
        if len(listed) < num_layers:
            raise config.refuse("compress_ratios", f"does not list all {num_layers} layers")
        return listed[:num_layers]
    types = config.strings("layer_types")
    if types is None or len(types) < num_layers or not set(types) <= set(_RATIOS):
        raise config.refuse("layer_types", f"is not one of {', '.join(_RATIOS)} per layer")
    rates = config.section("compress_rates") if config.has("compress_rates") else config
    return tuple(_ratio(rates, name) for name in types[:num_layers])


def _ratio(rates: ConfigReader, name: str) -> int:
    old = _RATIOS[name]
    if not old:
        return 0
    return rates.count(name, rates.optional_count(old) or _RATIO_DEFAULTS[old])


FAMILY = Family(
    model_types=("deepseek_v4", "deepseek_ref"),
    architectures=("DeepseekV4ForCausalLM",),
    build=_build,
)
