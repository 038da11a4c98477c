"""Quantised checkpoints: which weight is stored in which format."""

from __future__ import annotations

from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.models import model_from_config
from planner.ir.model_graph import Experts, Linear, ModelGraph

DENSE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 128,
}
MOE: dict[str, Any] = DENSE | {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
}


def graph(config: dict[str, Any], quantised: dict[str, Any] | None, separate: Any = None) -> ModelGraph:
    stated = config | ({"quantization_config": quantised} if quantised else {})
    return model_from_config(stated, name="m", diagnostics=Diagnostics(), quant_config=separate)


def fmts(model: ModelGraph, layer: int) -> dict[str, str]:
    return {op.name: op.fmt for op in model.layers[layer].ops if isinstance(op, Linear | Experts)}


def test_plain_checkpoints_store_nothing_special() -> None:
    model = graph(DENSE | {"torch_dtype": "float16"}, None)
    assert (model.checkpoint_weight_fmt, model.checkpoint_kv_fmt) == ("fp16", "auto")
    assert set(fmts(model, 0).values()) == {""}


@pytest.mark.parametrize(
    ("section", "fmt"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, "fp8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "awq", "bits": 4}, "w4a16"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "w4a16"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"quant_algo": "FP8"}, "fp8"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int"}}
                },
            },
            "w4a16",
        ),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}}, "mxfp4"),
    ],
)
def test_every_method_gives_its_format(section: dict[str, Any], fmt: str) -> None:
    model = graph(DENSE, section)
    assert model.checkpoint_weight_fmt == fmt
    assert set(fmts(model, 0).values()) == {fmt}


def test_head_embedding_and_router_stay_in_16_bit() -> None:
    model = graph(MOE, {"quant_method": "fp8"})
    assert fmts(model, 0)["mlp.gate"] == ""
    assert [op.fmt for op in (*model.embedding, *model.head) if isinstance(op, Linear)] == ["", ""]


@pytest.mark.parametrize(
    ("entry", "layer", "left"),
    [
        ("model.layers.1.self_attn", 1, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("model.layers.1.self_attn.q_proj", 1, {"q_proj"}),
        ("q_proj", 2, {"q_proj"}),
        ("*.self_attn.*", 0, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("model.layers.*.self_attn", 0, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("model.layers.1*", 0, set()),
        ("gate", 0, set()),
    ],
)
def test_exclusion_lists(entry: str, layer: int, left: set[str]) -> None:
    model = graph(DENSE, {"quant_method": "fp8", "modules_to_not_convert": [entry]})
    assert {name.split(".")[-1] for name, fmt in fmts(model, layer).items() if not fmt} == left


def test_expressions_of_compressed_tensors() -> None:
    section = {
        "quant_method": "compressed-tensors",
        "config_groups": {
            "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "group_size": 32}}
        },
        "ignore": ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
    }
    found = fmts(graph(MOE, section), 0)
    assert {name for name, fmt in found.items() if fmt} == {"mlp.experts"}


def test_a_separate_file_counts_where_the_config_says_nothing() -> None:
    separate = {
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    }
    model = graph(DENSE, None, separate)
    assert (model.checkpoint_weight_fmt, model.checkpoint_kv_fmt) == ("fp8", "fp8")


def test_mixed_precision_names_single_modules() -> None:
    section = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            "model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
            "model.layers.0.mlp.experts.0.gate_proj": {"quant_algo": "NVFP4"},
        },
    }
    model = graph(MOE, section)
    assert {name: fmt for name, fmt in fmts(model, 0).items() if fmt} == {
        "self_attn.q_proj": "fp8",
        "mlp.experts": "nvfp4",
    }
    assert set(fmts(model, 1).values()) == {""}
    assert model.checkpoint_weight_fmt == "nvfp4"


def test_fp4_experts_beside_fp8_weights() -> None:
    found = fmts(
        graph(MOE | {"expert_dtype": "fp4"}, {"quant_method": "fp8", "weight_block_size": [128, 128]}), 0
    )
    assert (found["mlp.experts"], found["self_attn.q_proj"]) == ("mxfp4", "fp8_block")


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "nonsense"},
        {"quant_method": "gptq", "bits": 3},
        {"quant_method": "modelopt", "quant_algo": "FP3"},
        {"quant_method": "compressed-tensors", "config_groups": {}},
        {"quant_method": "fp8", "modules_to_not_convert": ["re:(a+)+$"]},
        {"quant_method": "fp8", "modules_to_not_convert": ["re:.*.*.*.*.*x"]},
        {"quant_method": "fp8", "modules_to_not_convert": ["re:("]},
        {"quant_method": "fp8", "modules_to_not_convert": ["*" * 300]},
        {"quant_method": "fp8", "modules_to_not_convert": [3]},
        {"quant_method": "bitsandbytes"},
        {"quant_algo": "MIXED_PRECISION"},
        {"quant_algo": "FP8", "kv_cache_quant_algo": "FP3"},
        [],
        "fp8",
    ],
)
def test_what_cannot_be_is_refused(section: Any) -> None:
    with pytest.raises(InputError):
        model_from_config(DENSE | {"quantization_config": section}, name="m", diagnostics=Diagnostics())
