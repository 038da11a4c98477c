"""OPT: learned positions, layer norms, biases, a tied head, in one size a narrower embedding.

Source: transformers OPTForCausalLM (two rows more than positions).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import ModelParts, lm_head, norm, table, tied
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.transformer import GqaStack
from planner.ir.model_graph import Linear, Small


def _build(config: ConfigReader) -> ModelParts:
    bias = config.flag("enable_bias", True)
    affine = config.flag("layer_norm_elementwise_affine", True)
    attention = replace(
        read_gqa(config), qkv_bias=bias, out_bias=bias, names=("q_proj", "k_proj", "v_proj", "out_proj")
    )
    hidden, vocab = attention.hidden, config.count("vocab_size")
    ffn = replace(read_ffn(config, bias=bias), gated=False, names=("", "fc1", "fc2"))
    norms = ("self_attn_layer_norm", "final_layer_norm") if affine else ()
    stack = GqaStack(attention=attention, windows=(0,) * config.layers(), norms=norms, norm_bias=True)
    width = config.count("word_embed_proj_dim", hidden)
    positions = (config.count("max_position_embeddings") + 2) * hidden
    narrow = width != hidden
    final = affine and config.flag("do_layer_norm_before", True)
    final = final and not config.flag("_remove_final_layer_norm", False)
    is_tied = tied(config, True)
    return ModelParts(
        vocab_size=vocab,
        hidden_size=hidden,
        tied=is_tied,
        max_position=config.count("max_position_embeddings"),
        layers=stack.dense(ffn),
        embedding=(
            table("embed_tokens", vocab, width),
            Small(name="embed_positions", num_params=positions),
            *((_projection("project_in", width, hidden),) if narrow else ()),
        ),
        head=(
            *((norm("final_layer_norm", hidden, bias=True),) if final else ()),
            *((_projection("project_out", hidden, width),) if narrow else ()),
            lm_head(width, vocab, is_tied=is_tied),
        ),
    )


def _projection(name: str, in_features: int, out_features: int) -> Linear:
    return Linear(
        name=name,
        in_features=in_features,
        out_features=out_features,
        shard="replicated",
        slot="other",
        quantised=False,
    )


FAMILY = Family(
    model_types=("opt",),
    architectures=("OPTForCausalLM",),
    build=_build,
)
