"""MiniMax-Text-01 and M1: lightning attention with a full layer now and then, experts.

Source: transformers MiniMaxForCausalLM; MiniMax-Text-01 names the layers in `attn_type_list` (1 full).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, tied
from planner.frontend.model_blocks.ffn import read_moe
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer, Linear, Op, Small, StateCore


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    attends = _attends(config, num_layers)
    attention = replace(read_gqa(config), window=config.optional_count("sliding_window") or 0)
    lightning = _lightning(attention)
    moe = replace(read_moe(config, inter_key="intermediate_size"), prefix="block_sparse_moe").ops()

    def layer(index: int) -> Layer:
        mixer, name = (attention.ops(), "attention") if attends[index] else (lightning, "lightning")
        return block_layer(f"{name}+moe", mixer, moe, hidden=attention.hidden)

    return CausalLm(config=config, tied=tied(config, False)).parts(stack(num_layers, layer))


def _attends(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    flags = config.counts("attn_type_list")
    if flags is not None:
        if len(flags) != num_layers or not set(flags) <= {0, 1}:
            raise config.refuse("attn_type_list", "is not one 0 or 1 per layer")
        return tuple(flag == 1 for flag in flags)
    types = config.strings("layer_types")
    if types is None:
        return tuple(i % 2 == 0 for i in range(num_layers))
    if len(types) != num_layers or not set(types) <= {"full_attention", "linear_attention"}:
        raise config.refuse("layer_types", "is not one of full_attention and linear_attention per layer")
    return tuple(name == "full_attention" for name in types)


def _lightning(attention: GqaAttention) -> tuple[Op, ...]:
    hidden, heads, dim = attention.hidden, attention.num_heads, attention.head_dim
    width = heads * dim

    def split(name: str, out_features: int) -> Linear:
        return Linear(
            name=f"self_attn.{name}",
            in_features=hidden,
            out_features=out_features,
            shard="column",
            num_units=heads,
            slot="mixer",
            gemm="lightning_in",
        )

    return (
        split("qkv_proj", 3 * width),
        split("output_gate", width),
        StateCore(kind="lightning", num_heads=heads, recurrent_elems=heads * dim * dim, conv_elems=0),
        Small(name="self_attn.norm", num_params=width, shard="column"),
        Linear(
            name="self_attn.out_proj",
            in_features=width,
            out_features=hidden,
            shard="row",
            num_units=heads,
            slot="mixer",
        ),
    )


FAMILY = Family(
    model_types=("minimax", "minimax_text_01", "minimax_m1"),
    architectures=("MiniMaxForCausalLM", "MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    build=_build,
)
