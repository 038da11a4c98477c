"""MiniMax M3: grouped-query attention with a block-sparse indexer, experts, a vision tower.

Source: transformers MiniMaxM3SparseForConditionalGeneration.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, tied
from planner.frontend.model_blocks.deepseek import sparse_by_depth
from planner.frontend.model_blocks.ffn import Ffn, read_moe
from planner.frontend.model_blocks.transformer import block_layer
from planner.frontend.model_blocks.vision import Encoder, vision_map, vision_param
from planner.ir.model_graph import AttentionCore, Layer, Linear, Op, Small


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    num_layers = text.layers()
    attention = replace(read_gqa(text), qk_norm="head")
    plain, indexed = attention.ops(), _indexed(text, attention)
    uses_index, sparse = _indexed_layers(text, num_layers), sparse_by_depth(text, num_layers)
    moe = replace(
        read_moe(text, inter_key="intermediate_size"),
        shared_inter=text.size("shared_intermediate_size", 0),
        router_buffer=True,
        prefix="block_sparse_moe",
    )
    experts = moe.ops()
    dense = () if all(sparse) else _dense(text)

    def layer(index: int) -> Layer:
        mixer = indexed if uses_index[index] else plain
        label, ffn = ("moe", experts) if sparse[index] else ("ffn", dense)
        return block_layer(f"attention+{label}", mixer, ffn, hidden=attention.hidden)

    frame = CausalLm(config=text, tied=tied(text, False))
    return frame.parts(stack(num_layers, layer), extra=_vision(config, attention.hidden))


def _dense(text: ConfigReader) -> tuple[Op, ...]:
    return Ffn(hidden=text.count("hidden_size"), inter=text.count("dense_intermediate_size")).ops()


def _indexed_layers(text: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    types = text.strings("layer_types")
    if types is not None:
        flags = tuple(int(name == "minimax_m3_sparse") for name in types)
    elif text.has("sparse_attention_config"):
        section = text.section("sparse_attention_config")
        flags = section.counts("sparse_attention_freq") or (0,) * num_layers
    else:
        flags = (0,) * num_layers
    if len(flags) != num_layers:
        raise text.refuse("layer_types", f"does not list all {num_layers} layers")
    return tuple(flag != 0 for flag in flags)


def _indexed(text: ConfigReader, attention: GqaAttention) -> tuple[Op, ...]:
    old = text.has("sparse_attention_config")
    section = text.section("sparse_attention_config") if old else text
    heads = section.count("sparse_num_index_heads" if old else "index_n_heads", 4)
    dim = section.count("sparse_index_dim" if old else "index_head_dim", 128)
    block = section.count("sparse_block_size" if old else "index_block_size", 128)
    blocks = section.count("sparse_topk_blocks" if old else "index_topk_blocks", 16)
    return tuple(
        replace(op, index_heads=heads, index_dim=dim, index_topk=block * blocks)
        if isinstance(op, AttentionCore)
        else op
        for op in (
            _index_map("q_proj", attention.hidden, heads * dim),
            _index_map("k_proj", attention.hidden, dim),
            Small(name="self_attn.indexer.norms", num_params=2 * dim),
            *attention.ops(),
        )
    )


def _index_map(name: str, in_features: int, out_features: int) -> Linear:
    return Linear(
        name=f"self_attn.indexer.{name}",
        in_features=in_features,
        out_features=out_features,
        shard="replicated",
        slot="attention",
    )


def _vision(config: ConfigReader, text_hidden: int) -> tuple[Op, ...]:
    if not config.has("vision_config"):
        return ()
    vision = config.section("vision_config")
    holder = (
        vision.section("img_token_compression_config")
        if vision.has("img_token_compression_config")
        else vision
    )
    hidden, merge = vision.count("hidden_size"), holder.count("spatial_merge_size", 2)
    patch = vision.count("num_channels", 3) * vision.count("patch_size") ** 2
    wide = config.count("projector_hidden_size", text_hidden)
    encoder = Encoder(hidden=hidden, inter=vision.count("intermediate_size"), num_layers=vision.layers())
    return (
        vision_map("vision_tower.proj", patch * holder.count("temporal_patch_size", 2), hidden, bias=False),
        vision_param("vision_tower.pre_layrnorm", 2 * hidden),
        *encoder.ops(),
        vision_map("multi_modal_projector.linear_1", hidden, wide, bias=True),
        vision_map("multi_modal_projector.linear_2", wide, text_hidden, bias=True),
        vision_map("multi_modal_projector.merge_linear_1", merge**2 * text_hidden, wide, bias=True),
        vision_map("multi_modal_projector.merge_linear_2", wide, text_hidden, bias=True),
    )


FAMILY = Family(
    model_types=("minimax_m3", "minimax_m3_vl", "minimax_m3_vl_text"),
    architectures=(
        "MiniMaxM3SparseForConditionalGeneration",
        "MiniMaxM3SparseForCausalLM",
        "MiniMaxM3ForCausalLM",
    ),
    build=_build,
)
