"""Step 3.5 and 3.7 Flash: windowed layers with their own head count, gated heads, experts.

Source: transformers Step3p7ForConditionalGeneration, text part.
"""

from __future__ import annotations

from dataclasses import replace

from planner.frontend.config_reader import ConfigReader
from planner.frontend.family import Family
from planner.frontend.model_blocks.attention import GqaAttention, read_gqa
from planner.frontend.model_blocks.decoder import CausalLm, ModelParts, slides_by_type, stack, tied
from planner.frontend.model_blocks.deepseek import deepseek_mtp, sparse_by_depth
from planner.frontend.model_blocks.ffn import Moe, read_ffn, read_moe
from planner.frontend.model_blocks.transformer import block_layer
from planner.ir.model_graph import Layer, Linear, Op


def _build(config: ConfigReader) -> ModelParts:
    text = config.section("text_config") if config.has("text_config") else config
    num_layers = text.layers()
    types = (text.strings("layer_types") or ("full_attention",) * num_layers)[:num_layers]
    if len(types) != num_layers:
        raise text.refuse("layer_types", f"does not list all {num_layers} layers")
    slides = tuple(slides_by_type(text, name) for name in types)
    full = replace(read_gqa(text), qk_norm="head", qkv_bias=text.flag("attention_bias", False))
    windowed = replace(full, num_heads=_sliding_heads(text, full.num_heads))
    if any(slides):
        windowed = replace(windowed, window=text.count("sliding_window"))
    sparse = _sparse(text, num_layers)
    experts = _moe(text).ops() if any(sparse) else ()
    dense = () if all(sparse) else read_ffn(text).ops()

    def layer(index: int) -> Layer:
        attention = windowed if slides[index] else full
        label, ffn = ("moe", experts) if sparse[index] else ("ffn", dense)
        return block_layer(f"attention+{label}", _gated(attention), ffn, hidden=attention.hidden)

    if config.has("vision_config"):
        config.remark("the vision tower is not counted")
    layers = stack(num_layers, layer)
    frame = CausalLm(config=text, tied=tied(text, False))
    return frame.parts(layers, mtp_layers=deepseek_mtp(text, layers))


def _gated(attention: GqaAttention) -> tuple[Op, ...]:
    gate = Linear(
        name="self_attn.g_proj",
        in_features=attention.hidden,
        out_features=attention.num_heads,
        shard="column",
        slot="attention",
        gemm="qkv",
    )
    return (gate, *attention.ops())


def _moe(text: ConfigReader) -> Moe:
    return replace(read_moe(text), shared_inter=text.size("share_expert_dim", 0), router_buffer=True)


def _sliding_heads(text: ConfigReader, heads: int) -> int:
    if text.has("attention_other_setting"):
        return text.section("attention_other_setting").count("num_attention_heads", heads)
    return text.count("num_sliding_attention_heads", heads)


def _sparse(text: ConfigReader, num_layers: int) -> tuple[bool, ...]:
    types = text.strings("mlp_layer_types")
    if types is not None and len(types) > num_layers:
        types = types[:num_layers]
        return tuple(name == "sparse" for name in types)
    if types is None and text.has("moe_layers_enum"):
        named = {part.strip() for part in text.text("moe_layers_enum", "").split(",")}
        return tuple(str(i) in named for i in range(num_layers))
    return sparse_by_depth(text, num_layers, dense_default=3)


FAMILY = Family(
    model_types=("step3p7", "step3p5", "step3p5_text"),
    architectures=("Step3p7ForConditionalGeneration", "Step3p7FlashForCausalLM", "Step3p5ForCausalLM"),
    build=_build,
)
