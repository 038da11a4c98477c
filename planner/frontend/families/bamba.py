"""Bamba: Mamba 2 with a few attention layers and a dense block in each.

Source: transformers BambaForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.recurrent import Mamba2
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    bias = config.flag("attention_bias", False)
    attention = replace(read_gqa(config), qkv_bias=bias, out_bias=bias)
    hidden = attention.hidden
    mamba = _mamba(config, hidden).ops()
    attends = set(config.counts("attn_layer_indices") or ())
    ffn = replace(read_ffn(config, bias=config.flag("mlp_bias", False)), prefix="feed_forward").ops()

    def layer(index: int) -> Layer:
        mixer, name = (attention.ops(), "attention") if index in attends else (mamba, "mamba2")
        norms = ("input_layernorm", "pre_ff_layernorm")
        return block_layer(f"{name}+ffn", mixer, ffn, hidden=hidden, norms=norms)

    return CausalLm(config=config, tied=tied(config, False)).parts(stack(num_layers, layer))


def _mamba(config: ConfigReader, hidden: int) -> Mamba2:
    heads = config.count("mamba_n_heads")
    inner = config.count("mamba_expand", 2) * hidden
    automatic = config.values.get("mamba_d_head", "auto") == "auto"
    head_dim = inner // heads if automatic else config.count("mamba_d_head")
    if heads * head_dim != inner:
        raise config.refuse("mamba_n_heads", f"times the head size {head_dim} is not the inner width {inner}")
    return Mamba2(
        hidden=hidden,
        num_heads=heads,
        head_dim=head_dim,
        num_groups=config.count("mamba_n_groups", 1),
        state=config.count("mamba_d_state"),
        conv_kernel=config.count("mamba_d_conv", 4),
        bias=config.flag("mamba_proj_bias", False),
        conv_bias=config.flag("mamba_conv_bias", True),
        prefix="mamba",
    )


FAMILY = Family(
    model_types=("bamba",),
    architectures=("BambaForCausalLM",),
    build=_build,
)
