"""What DeepSeek-like models share: dense first layers, shared experts of the routed width, MTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.model_blocks.decoder import mtp_layer, stack
from planner.frontend.model_blocks.ffn import Moe, read_ffn, read_moe
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer, Op


def read_deepseek_moe(config: ConfigReader, *, router_buffer: bool = True) -> Moe:
    """Read routed experts and `n_shared_experts` shared ones of the same width."""
    moe = read_moe(config)
    shared = config.size("n_shared_experts", 0) * moe.inter
    return replace(moe, shared_inter=shared, router_buffer=router_buffer)


def sparse_by_depth(config: ConfigReader, num_layers: int, *, dense_default: int = 0) -> tuple[bool, ...]:
    """Return which layers hold experts.

    From `mlp_layer_types` (dense or sparse), or a list in `moe_layer_freq`, or all layers from
    `first_k_dense_replace` on (`dense_default` where absent) that are multiples of `moe_layer_freq`.

    Raises
    ------
    InputError
        If a per-layer list has the wrong length or an unknown entry.
    """
    types = config.strings("mlp_layer_types")
    if types is not None:
        if len(types) != num_layers or not set(types) <= {"dense", "sparse"}:
            raise config.refuse("mlp_layer_types", "is not one of dense and sparse per layer")
        return tuple(name == "sparse" for name in types)
    if isinstance(config.values.get("moe_layer_freq"), list):
        flags = config.counts("moe_layer_freq") or ()
        if len(flags) != num_layers or not set(flags) <= {0, 1}:
            raise config.refuse("moe_layer_freq", "is not one 0 or 1 per layer")
        return tuple(flag == 1 for flag in flags)
    first, every = config.size("first_k_dense_replace", dense_default), config.count("moe_layer_freq", 1)
    return tuple(i >= first and i % every == 0 for i in range(num_layers))


def deepseek_layers(
    config: ConfigReader, attention: Callable[[int], tuple[Op, ...]], moe: Moe, *, ffn_bias: bool = False
) -> tuple[Layer, ...]:
    """Return the decoder layers: attention of layer i, then experts or a dense block."""
    num_layers = config.layers()
    sparse = sparse_by_depth(config, num_layers)
    dense = () if all(sparse) else read_ffn(config, bias=ffn_bias).ops()

    def layer(index: int) -> Layer:
        label, ffn = ("moe", moe.ops()) if sparse[index] else ("ffn", dense)
        return block_layer(f"attention+{label}", attention(index), ffn, hidden=moe.hidden)

    return stack(num_layers, layer)


def deepseek_mtp(config: ConfigReader, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Return the multi-token prediction layers, each around a copy of the last decoder layer."""
    count = config.count("num_nextn_predict_layers", 0, minimum=0, maximum=64)
    return (mtp_layer(config.count("hidden_size"), layers[-1]),) * count
