"""Mamba 2 (Codestral Mamba): a mixer per layer, no attention.

Source: transformers Mamba2ForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, norm, stack, tied
from planner.frontend.model_blocks.recurrent import Mamba2
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    hidden, num_layers = config.count("hidden_size"), config.layers()
    mixer = Mamba2(
        hidden=hidden,
        num_heads=config.count("num_heads"),
        head_dim=config.count("head_dim"),
        num_groups=config.count("n_groups"),
        state=config.count("state_size"),
        conv_kernel=config.count("conv_kernel", 4),
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
    )
    layer = Layer(kind="mamba2", ops=(norm("norm", hidden), *mixer.ops()))
    return CausalLm(config=config, tied=tied(config, False)).parts(stack(num_layers, lambda _: layer))


FAMILY = Family(
    model_types=("mamba2",),
    architectures=("Mamba2ForCausalLM",),
    build=_build,
)
