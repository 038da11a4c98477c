"""Mamba 1: a mixer per layer, no attention.

Source: transformers MambaForCausalLM.
"""

from __future__ import annotations

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, norm, stack, tied
from planner.frontend.model_blocks.recurrent import Mamba1
from planner.ir.model_graph import Layer


def _build(config: ConfigReader) -> ModelParts:
    hidden, num_layers = config.count("hidden_size"), config.layers()
    inner = config.optional_count("intermediate_size") or config.count("expand", 2) * hidden
    mixer = Mamba1(
        hidden=hidden,
        inner=inner,
        state=config.count("state_size"),
        conv_kernel=config.count("conv_kernel", 4),
        dt_rank=_dt_rank(config, hidden),
        bias=config.flag("use_bias", False),
        conv_bias=config.flag("use_conv_bias", True),
    )
    layer = Layer(kind="mamba", ops=(norm("norm", hidden), *mixer.ops()))
    tied_default = config.text("model_type", "mamba") == "mamba"
    frame = CausalLm(config=config, tied=tied(config, tied_default))
    return frame.parts(stack(num_layers, lambda _: layer))


def _dt_rank(config: ConfigReader, hidden: int) -> int:
    automatic = config.values.get("time_step_rank", "auto") == "auto"
    return -(-hidden // 16) if automatic else config.count("time_step_rank")


FAMILY = Family(
    model_types=("mamba", "falcon_mamba"),
    architectures=("MambaForCausalLM", "FalconMambaForCausalLM"),
    build=_build,
)
