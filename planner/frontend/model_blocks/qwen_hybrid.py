"""The Qwen hybrids: gated delta net layers with a gated attention layer now and then."""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.decoder import stack
from planner.frontend.model_blocks.ffn import read_ffn
from planner.frontend.model_blocks.qwen import qwen3_attention, qwen_moe, sparse_layers
from planner.frontend.model_blocks.recurrent import read_gated_delta_net
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer

_TYPES = {"linear_attention": False, "full_attention": True}


def qwen_hybrid(config: ConfigReader) -> tuple[Layer, ...]:
    """Return the layers: attention where `layer_types` (or every `full_attention_interval`) says so."""
    num_layers = config.layers()
    attends = _attends(config, num_layers)
    attention = replace(qwen3_attention(config), gated=config.flag("attn_output_gate", True))
    delta_net = read_gated_delta_net(config).ops() if not all(attends) else ()
    has_experts = config.has("num_experts")
    sparse = sparse_layers(config, num_layers) if has_experts else (False,) * num_layers
    experts = qwen_moe(config, shared=True).ops() if any(sparse) else ()
    dense = () if all(sparse) else read_ffn(config).ops()

    def layer(index: int) -> Layer:
        mixer, name = (attention.ops(), "attention") if attends[index] else (delta_net, "delta_net")
        label, ffn = ("moe", experts) if sparse[index] else ("ffn", dense)
        return block_layer(f"{name}+{label}", mixer, ffn, hidden=attention.hidden)

    return stack(num_layers, layer)


def _attends(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    types = config.strings("layer_types")
    if types is None:
        every = config.count("full_attention_interval", 4)
        return tuple((i + 1) % every == 0 for i in range(num_layers))
    if len(types) != num_layers or not set(types) <= set(_TYPES):
        raise config.refuse(
            "layer_types", f"is not one of {', '.join(_TYPES)} for each of {num_layers} layers"
        )
    return tuple(_TYPES[name] for name in types)
