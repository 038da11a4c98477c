"""Falcon: multi-query or grouped attention, one or two layer norms before parallel blocks.

Source: transformers FalconForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import Ffn
from planner.frontend.model_blocks.transformer import PRE_NORMS, GqaStack


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("bias", False)
    attention = replace(
        _attention(config),
        qkv_bias=bias,
        out_bias=bias,
        prefix="self_attention",
        names=("query_key_value", "query_key_value", "query_key_value", "dense"),
    )
    hidden = attention.hidden
    inter = config.optional_count("intermediate_size") or 4 * hidden
    names = ("", "dense_h_to_4h", "dense_4h_to_h")
    ffn = Ffn(hidden=hidden, inter=inter, gated=False, bias=bias, names=names)
    windows = (0,) * config.layers()
    layers = GqaStack(attention=attention, windows=windows, norms=_norms(config), norm_bias=True).dense(ffn)
    return CausalLm(config=config, tied=tied(config, True), norm_bias=True).parts(layers)


def _attention(config: ConfigReader) -> GqaAttention:
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    head_dim = config.divided("hidden_size", "num_attention_heads")
    if config.flag("new_decoder_architecture", False):
        kv_heads = config.optional_count("num_key_value_heads") or heads
    elif config.flag("multi_query", True):
        kv_heads = 1
    else:
        kv_heads = heads
    if heads % kv_heads:
        raise config.refuse("num_key_value_heads", f"does not divide the {heads} attention heads")
    return GqaAttention(hidden=hidden, num_heads=heads, num_kv_heads=kv_heads, head_dim=head_dim)


def _norms(config: ConfigReader) -> tuple[str, ...]:
    if not config.flag("parallel_attn", True):
        return PRE_NORMS
    default = 2 if config.flag("new_decoder_architecture", False) else 1
    return ("ln_attn", "ln_mlp") if config.count("num_ln_in_parallel_attn", default) == 2 else PRE_NORMS[:1]


FAMILY = Family(
    model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
    architectures=("FalconForCausalLM", "RWForCausalLM"),
    build=_build,
)
