"""GPT-J: attention and feed-forward in parallel after one layer norm.

Source: transformers GPTJForCausalLM.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.ffn import Ffn
from planner.frontend.model_blocks.transformer import GqaStack


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_gqa(config), prefix="attn", names=("q_proj", "k_proj", "v_proj", "out_proj"))
    hidden = attention.hidden
    inter = config.optional_count("intermediate_size") or 4 * hidden
    ffn = Ffn(hidden=hidden, inter=inter, gated=False, bias=True, names=("", "fc_in", "fc_out"))
    stack = GqaStack(attention=attention, windows=(0,) * config.layers(), norms=("ln_1",), norm_bias=True)
    frame = CausalLm(config=config, tied=tied(config, False), norm_bias=True, head_bias=True)
    return frame.parts(stack.dense(ffn))


FAMILY = Family(
    model_types=("gptj",),
    architectures=("GPTJForCausalLM",),
    build=_build,
)
