"""Nemotron NAS (Llama-Nemotron Super and Ultra): every layer has its own KV heads and width.

Source: DeciLMForCausalLM of nvidia/Llama-3_3-Nemotron-Super-49B-v1: a width is 2/3 of mult times
the hidden size, rounded up to a multiple of 256; skipped blocks have no norm either.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, norm, stack, tied
from planner.frontend.model_blocks.ffn import Ffn
from planner.ir.model_graph import Layer, Linear, Op


def _build(config: ConfigReader) -> ModelParts:
    blocks = config.sections("block_configs")
    num_layers = config.layers()
    if blocks is None or len(blocks) != num_layers:
        raise config.refuse("block_configs", f"does not describe all {num_layers} layers")
    layers = stack(num_layers, lambda i: _layer(config, blocks[i]))
    return CausalLm(config=config, tied=tied(config, False)).parts(layers)


def _layer(config: ConfigReader, block: ConfigReader) -> Layer:
    hidden = config.count("hidden_size")
    mixer_name, mixer = _attention(config, block.section("attention"))
    ffn_name, ffn = _ffn(config, block.section("ffn"))
    ops: tuple[Op, ...] = ()
    if mixer:
        ops = (norm("input_layernorm", hidden), *mixer)
    if ffn:
        ops = (*ops, norm("post_attention_layernorm", hidden), *ffn)
    return Layer(kind="+".join(n for n in (mixer_name, ffn_name) if n) or "skipped", ops=ops)


def _attention(config: ConfigReader, block: ConfigReader) -> tuple[str, tuple[Op, ...]]:
    if block.flag("no_op", False):
        return "", ()
    hidden = config.count("hidden_size")
    if block.flag("replace_with_linear", False):
        return "linear", (_square("self_attn.linear_attn", hidden),)
    heads, in_group = config.count("num_attention_heads"), block.count("n_heads_in_group")
    if heads % in_group:
        raise block.refuse("n_heads_in_group", f"does not divide the {heads} attention heads")
    bias = config.flag("attention_bias", False)
    attention = GqaAttention(
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=heads // in_group,
        head_dim=config.optional_count("head_dim") or config.divided("hidden_size", "num_attention_heads"),
        qkv_bias=bias,
        out_bias=bias,
        window=block.optional_count("window_length") or 0,
    )
    return "attention", attention.ops()


def _ffn(config: ConfigReader, block: ConfigReader) -> tuple[str, tuple[Op, ...]]:
    if block.flag("no_op", False):
        return "", ()
    hidden = config.count("hidden_size")
    if block.flag("replace_with_linear", False):
        return "linear", (_square("mlp.linear_mlp", hidden),)
    inter = block.optional_count("intermediate_size")
    if inter is None:
        inter = -(-int(2 * block.number("ffn_mult") * hidden / 3) // 256) * 256
    return "ffn", Ffn(hidden=hidden, inter=inter, bias=config.flag("mlp_bias", False)).ops()


def _square(name: str, hidden: int) -> Linear:
    return Linear(name=name, in_features=hidden, out_features=hidden, shard="replicated", slot="other")


FAMILY = Family(
    model_types=("nemotron-nas", "deci", "nemotron_nas"),
    architectures=("DeciLMForCausalLM",),
    build=_build,
)
