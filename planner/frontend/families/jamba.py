"""Jamba: Mamba with an attention layer now and then, experts in every other layer.

Source: transformers JambaForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, stack, tied
from planner.frontend.model_blocks.ffn import read_ffn, read_moe
from planner.frontend.model_blocks.recurrent import Mamba1
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer, Op


def _build(config: ConfigReader) -> ModelParts:
    num_layers = config.layers()
    attention = read_gqa(config)
    hidden = attention.hidden
    mamba = Mamba1(
        hidden=hidden,
        inner=config.count("mamba_expand", 2) * hidden,
        state=config.count("mamba_d_state", 16),
        conv_kernel=config.count("mamba_d_conv", 4),
        dt_rank=_dt_rank(config, hidden),
        bias=config.flag("mamba_proj_bias", False),
        conv_bias=config.flag("mamba_conv_bias", True),
        inner_norms=True,
        prefix="mamba",
    )
    attends = _periodic(config, "attn_layer", num_layers)
    sparse = _periodic(config, "expert_layer", num_layers)
    if config.count("num_experts", 1) == 1:
        sparse = (False,) * num_layers
    ffn = replace(read_ffn(config), prefix="feed_forward").ops()
    experts = _experts(config) if any(sparse) else ()

    def layer(index: int) -> Layer:
        mixer, name = (attention.ops(), "attention") if attends[index] else (mamba.ops(), "mamba")
        label, block = ("moe", experts) if sparse[index] else ("ffn", ffn)
        norms = ("input_layernorm", "pre_ff_layernorm")
        return block_layer(f"{name}+{label}", mixer, block, hidden=hidden, norms=norms)

    return CausalLm(config=config, tied=tied(config, False)).parts(stack(num_layers, layer))


def _experts(config: ConfigReader) -> tuple[Op, ...]:
    moe = read_moe(config, inter_key="intermediate_size")
    return replace(moe, prefix="feed_forward", router_name="router").ops()


def _periodic(config: ConfigReader, key: str, num_layers: int) -> tuple[bool, ...]:
    period, offset = config.count(f"{key}_period"), config.size(f"{key}_offset")
    return tuple(i % period == offset for i in range(num_layers))


def _dt_rank(config: ConfigReader, hidden: int) -> int:
    automatic = config.values.get("mamba_dt_rank", "auto") == "auto"
    return -(-hidden // 16) if automatic else config.count("mamba_dt_rank")


FAMILY = Family(
    model_types=("jamba",),
    architectures=("JambaForCausalLM",),
    build=_build,
)
