"""GLM-5: latent attention with a sparse indexer that only some layers compute.

Source: transformers GlmMoeDsaForCausalLM (a layer of type shared reuses the last computed choice).
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import read_indexer, read_mla
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, tied
from planner.frontend.model_blocks.deepseek import deepseek_layers, deepseek_mtp, read_deepseek_moe


def _build(config: ConfigReader) -> ModelParts:
    attention = replace(read_mla(config), indexer=read_indexer(config))
    full, shared = attention.ops(), replace(attention, shares_index=True).ops()
    computes = _computes_index(config, config.layers())
    layers = deepseek_layers(config, lambda i: full if computes[i] else shared, read_deepseek_moe(config))
    frame = CausalLm(config=config, tied=tied(config, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(config, layers))


def _computes_index(config: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    kinds = config.strings("indexer_types")
    key = "indexer_types"
    if kinds is None and config.has("index_topk_pattern"):
        key = "index_topk_pattern"
        listed = isinstance(config.values[key], list)
        kinds = config.strings(key) if listed else tuple(config.text(key, ""))
    if kinds is None:
        every, offset = config.count("index_topk_freq", 1), config.size("index_skip_topk_offset", 2)
        return tuple(max(i - offset + 1, 0) % every == 0 for i in range(num_layers))
    if len(kinds) != num_layers or not set(kinds) <= {"full", "shared", "F", "S"}:
        raise config.refuse(key, "is not one of full and shared per layer")
    return tuple(kind in {"full", "F"} for kind in kinds)


FAMILY = Family(
    model_types=("glm_moe_dsa",),
    architectures=("GlmMoeDsaForCausalLM",),
    build=_build,
)
