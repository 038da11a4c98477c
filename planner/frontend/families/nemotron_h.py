"""Nemotron-H and Nemotron 3: one mixer per layer, of four kinds in a stated order.

Source: transformers NemotronHForCausalLM (M mamba, * attention, E experts, - dense block).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, norm, stack, tied
from planner.frontend.model_blocks.ffn import read_ffn, read_moe
from planner.frontend.model_blocks.recurrent import Mamba2
from planner.ir.model_graph import Layer, Op

_LETTERS = {"M": "mamba", "*": "attention", "E": "moe", "-": "mlp"}
_KINDS = {
    "mamba": "mamba",
    "linear_attention": "mamba",
    "attention": "attention",
    "full_attention": "attention",
    "moe": "moe",
    "mlp": "mlp",
}


def _build(config: ConfigReader) -> ModelParts:
    kinds = _layer_kinds(config)
    hidden = config.count("hidden_size")
    mixers = {kind: _mixer(config, kind) for kind in sorted(set(kinds))}

    def layer(index: int) -> Layer:
        kind = kinds[index]
        return Layer(kind=kind, ops=(norm("norm", hidden), *mixers[kind]))

    return CausalLm(config=config, tied=tied(config, False)).parts(stack(len(kinds), layer))


def _layer_kinds(config: ConfigReader) -> tuple[str, ...]:
    if config.has("hybrid_override_pattern"):
        key, names = "hybrid_override_pattern", tuple(config.text("hybrid_override_pattern", ""))
        kinds = tuple(_LETTERS.get(name) for name in names)
    else:
        key = "layers_block_type" if config.has("layers_block_type") else "layer_types"
        names = config.strings(key) or ()
        kinds = tuple(_KINDS.get(name) for name in names)
    known = tuple(kind for kind in kinds if kind is not None)
    if not known or len(known) != len(kinds):
        raise config.refuse(key, "does not name the kind of every layer", allowed="M, *, E, -")
    if config.has("num_hidden_layers") and config.layers() != len(known):
        raise config.refuse(key, f"names {len(known)} layers, but there are {config.layers()}")
    return known


def _mixer(config: ConfigReader, kind: str) -> tuple[Op, ...]:
    if kind == "attention":
        return _attention(config).ops()
    if kind == "mamba":
        return _mamba(config).ops()
    bias = config.flag("mlp_bias", False)
    if kind == "mlp":
        return replace(read_ffn(config, bias=bias), gated=False, prefix="mixer").ops()
    moe = replace(
        read_moe(config),
        gated=False,
        router_buffer=True,
        shared_bias=bias,
        shared_inter=config.count("moe_shared_expert_intermediate_size"),
        latent=config.optional_count("moe_latent_size") or 0,
        prefix="mixer",
    )
    return moe.ops()


def _attention(config: ConfigReader) -> GqaAttention:
    old = config.optional_count("attention_head_dim")
    attention = read_gqa(config)
    if old is not None and not config.has("head_dim"):
        attention = replace(attention, head_dim=old)
    window = config.optional_count("sliding_window") or 0
    return replace(attention, window=window, prefix="mixer")


def _mamba(config: ConfigReader) -> Mamba2:
    return Mamba2(
        hidden=config.count("hidden_size"),
        num_heads=config.count("mamba_num_heads"),
        head_dim=config.count("mamba_head_dim"),
        num_groups=config.count("n_groups"),
        state=config.count("ssm_state_size"),
        conv_kernel=config.count("conv_kernel", 4),
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
    )


FAMILY = Family(
    model_types=("nemotron_h",),
    architectures=("NemotronHForCausalLM",),
    build=_build,
)
