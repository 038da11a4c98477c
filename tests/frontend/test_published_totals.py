"""Totals that model cards and safetensors metadata publish, for models outside the truth table."""

from __future__ import annotations

from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import model_from_config


def dims(
    hidden: int, inter: int, layers: int, heads: int, kv_heads: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": inter,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        **more,
    }


TIED = {"tie_word_embeddings": True}
DEEPSEEK_V2 = {
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "num_experts_per_tok": 6,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "Llama-2-13b": ("llama", dims(5120, 13824, 40, 40, 40, 32000), 13_015_864_320),
    "Llama-2-70b": ("llama", dims(8192, 28672, 80, 64, 8, 32000), 68_976_648_192),
    "Llama-3.2-3B": ("llama", dims(3072, 8192, 28, 24, 8, 128256, head_dim=128, **TIED), 3_212_749_824),
    "TinyLlama-1.1B": ("llama", dims(2048, 5632, 22, 32, 4, 32000), 1_100_048_384),
    "Yi-34B": ("llama", dims(7168, 20480, 60, 56, 8, 64000), 34_388_917_248),
    "Mistral-7B-v0.1": ("mistral", dims(4096, 14336, 32, 32, 8, 32000, sliding_window=4096), 7_241_732_096),
    "Mistral-Nemo-12B": ("mistral", dims(5120, 14336, 40, 32, 8, 131072, head_dim=128), 12_247_782_400),
    "Mixtral-8x7B": (
        "mixtral",
        dims(4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2),
        46_702_792_704,
    ),
    "Qwen2.5-0.5B": ("qwen2", dims(896, 4864, 24, 14, 2, 151936, **TIED), 494_032_768),
    "Qwen2.5-1.5B": ("qwen2", dims(1536, 8960, 28, 12, 2, 151936, **TIED), 1_543_714_304),
    "Qwen2.5-14B": ("qwen2", dims(5120, 13824, 48, 40, 8, 152064), 14_770_033_664),
    "Qwen2.5-32B": ("qwen2", dims(5120, 27648, 64, 40, 8, 152064), 32_763_876_352),
    "Qwen3-4B": ("qwen3", dims(2560, 9728, 36, 32, 8, 151936, head_dim=128, **TIED), 4_022_468_096),
    "Qwen3-14B": ("qwen3", dims(5120, 17408, 40, 40, 8, 151936, head_dim=128), 14_768_307_200),
    "Qwen1.5-MoE-A2.7B": (
        "qwen2_moe",
        dims(
            2048,
            5632,
            24,
            16,
            16,
            151936,
            num_experts=60,
            num_experts_per_tok=4,
            moe_intermediate_size=1408,
            shared_expert_intermediate_size=5632,
        ),
        14_315_784_192,
    ),
    "DeepSeek-V2": (
        "deepseek_v2",
        dims(
            5120,
            12288,
            60,
            128,
            128,
            102400,
            q_lora_rank=1536,
            n_routed_experts=160,
            moe_intermediate_size=1536,
            **DEEPSEEK_V2,
        ),
        235_741_434_880,
    ),
    "DeepSeek-V2-Lite": (
        "deepseek_v2",
        dims(
            2048,
            10944,
            27,
            16,
            16,
            102400,
            q_lora_rank=None,
            n_routed_experts=64,
            moe_intermediate_size=1408,
            **DEEPSEEK_V2,
        ),
        15_706_484_224,
    ),
    "gemma-2b": ("gemma", dims(2048, 16384, 18, 8, 1, 256000, head_dim=256), 2_506_172_416),
    "gemma-7b": ("gemma", dims(3072, 24576, 28, 16, 16, 256000, head_dim=256), 8_537_680_896),
    "gemma-2-2b": (
        "gemma2",
        dims(2304, 9216, 26, 8, 4, 256000, head_dim=256, sliding_window=4096),
        2_614_341_888,
    ),
    "gemma-2-27b": (
        "gemma2",
        dims(4608, 36864, 46, 32, 16, 256000, head_dim=128, sliding_window=4096),
        27_227_128_320,
    ),
    "gemma-3-1b": (
        "gemma3_text",
        dims(1152, 6912, 26, 4, 1, 262144, head_dim=256, sliding_window=512),
        999_885_952,
    ),
    "phi-2": ("phi", dims(2560, 10240, 32, 32, 32, 51200), 2_779_683_840),
    "Phi-3-mini": ("phi3", dims(3072, 8192, 32, 32, 32, 32064), 3_821_079_552),
    "Phi-3-medium": ("phi3", dims(5120, 17920, 40, 40, 10, 32064), 13_960_238_080),
    "Phi-3.5-MoE": (
        "phimoe",
        dims(
            4096,
            6400,
            32,
            32,
            8,
            32064,
            num_local_experts=16,
            num_experts_per_tok=2,
            attention_bias=True,
            lm_head_bias=True,
        ),
        41_873_153_344,
    ),
    "glm-4-9b": (
        "glm",
        dims(4096, 13696, 40, 32, 2, 151552, head_dim=128, attention_bias=True),
        9_399_951_360,
    ),
    "Qwen3-Next-80B-A3B": (
        "qwen3_next",
        dims(
            2048,
            5632,
            48,
            16,
            2,
            151936,
            head_dim=256,
            num_experts=512,
            num_experts_per_tok=10,
            moe_intermediate_size=512,
            shared_expert_intermediate_size=512,
            linear_conv_kernel_dim=4,
            linear_key_head_dim=128,
            linear_value_head_dim=128,
            linear_num_key_heads=16,
            linear_num_value_heads=32,
        ),
        79_674_391_296,
    ),
    "Jamba-v0.1": (
        "jamba",
        dims(
            4096,
            14336,
            32,
            32,
            8,
            65536,
            num_experts=16,
            num_experts_per_tok=2,
            attn_layer_period=8,
            attn_layer_offset=4,
            expert_layer_period=2,
            expert_layer_offset=1,
            mamba_d_state=16,
            mamba_d_conv=4,
            mamba_expand=2,
            mamba_dt_rank=256,
        ),
        51_570_323_328,
    ),
    "mamba-130m": (
        "mamba",
        {
            "hidden_size": 768,
            "num_hidden_layers": 24,
            "state_size": 16,
            "expand": 2,
            "time_step_rank": 48,
            "vocab_size": 50280,
        },
        129_135_360,
    ),
    "Mamba-Codestral-7B": (
        "mamba2",
        {
            "hidden_size": 4096,
            "num_hidden_layers": 64,
            "state_size": 128,
            "num_heads": 128,
            "head_dim": 64,
            "n_groups": 8,
            "vocab_size": 32768,
        },
        7_285_403_648,
    ),
    "gpt2": (
        "gpt2",
        {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
        124_439_808,
    ),
    "gpt2-xl": (
        "gpt2",
        {"n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257},
        1_557_611_200,
    ),
    "gpt-j-6b": (
        "gptj",
        {"n_embd": 4096, "n_layer": 28, "n_head": 16, "n_positions": 2048, "vocab_size": 50400},
        6_050_882_784,
    ),
    "gpt-neox-20b": ("gpt_neox", dims(6144, 24576, 44, 64, 64, 50432), 20_554_567_680),
    "pythia-6.9b": ("gpt_neox", dims(4096, 16384, 32, 32, 32, 50432), 6_857_302_016),
    "opt-125m": (
        "opt",
        {
            "hidden_size": 768,
            "ffn_dim": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 768,
        },
        125_239_296,
    ),
    "opt-350m": (
        "opt",
        {
            "hidden_size": 1024,
            "ffn_dim": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "vocab_size": 50272,
            "max_position_embeddings": 2048,
            "word_embed_proj_dim": 512,
            "do_layer_norm_before": False,
        },
        331_196_416,
    ),
    "bloom-560m": (
        "bloom",
        {"hidden_size": 1024, "n_layer": 24, "n_head": 16, "vocab_size": 250880},
        559_214_592,
    ),
    "bloom": (
        "bloom",
        {"hidden_size": 14336, "n_layer": 70, "n_head": 112, "vocab_size": 250880},
        176_247_271_424,
    ),
    "falcon-7b": (
        "falcon",
        {
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "vocab_size": 65024,
            "multi_query": True,
            "parallel_attn": True,
        },
        6_921_720_704,
    ),
    "falcon-40b": (
        "falcon",
        {
            "hidden_size": 8192,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_kv_heads": 8,
            "vocab_size": 65024,
            "new_decoder_architecture": True,
        },
        41_303_293_952,
    ),
    "starcoder2-3b": ("starcoder2", dims(3072, 12288, 30, 24, 2, 49152, sliding_window=4096), 3_030_371_328),
    "c4ai-command-r-v01": ("cohere", dims(8192, 22528, 40, 64, 64, 256000), 34_980_831_232),
    "SmolLM3-3B": ("smollm3", dims(2048, 11008, 36, 16, 4, 128256), 3_075_098_624),
    "OLMo-2-1124-7B": ("olmo2", dims(4096, 11008, 32, 32, 32, 100352), 7_298_617_344),
}
VISION = {
    "Llama-3.2-11B-Vision": (
        {
            "model_type": "mllama",
            "text_config": dims(4096, 14336, 40, 32, 8, 128256, cross_attention_layers=[*range(3, 40, 5)]),
            "vision_config": {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_global_layers": 8,
                "image_size": 560,
                "patch_size": 14,
                "max_num_tiles": 4,
                "vision_output_dim": 7680,
            },
        },
        10_670_220_835,
    ),
    "Mistral-Small-3.1-24B": (
        {
            "model_type": "mistral3",
            "spatial_merge_size": 2,
            "text_config": dims(5120, 32768, 40, 32, 8, 131072, head_dim=128),
            "vision_config": {
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "image_size": 1540,
                "patch_size": 14,
            },
        },
        24_011_361_280,
    ),
    "Llama-4-Scout-17B-16E": (
        {
            "model_type": "llama4",
            "text_config": dims(
                5120,
                8192,
                48,
                40,
                8,
                202048,
                intermediate_size_mlp=16384,
                num_local_experts=16,
                num_experts_per_tok=1,
            ),
            "vision_config": {
                "hidden_size": 1408,
                "intermediate_size": 5632,
                "num_hidden_layers": 34,
                "image_size": 336,
                "patch_size": 14,
                "projector_input_dim": 4096,
                "projector_output_dim": 4096,
                "vision_output_dim": 4096,
            },
        },
        108_641_793_536,
    ),
    "gemma-3-4b": (
        {
            "model_type": "gemma3",
            "text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34},
            "vision_config": {
                "hidden_size": 1152,
                "intermediate_size": 4304,
                "num_hidden_layers": 27,
                "image_size": 896,
                "patch_size": 14,
                "vision_use_head": False,
            },
        },
        4_300_079_472,
    ),
}


@pytest.mark.parametrize(("config", "total"), VISION.values(), ids=VISION)
def test_published_total_with_vision(config: dict[str, Any], total: int) -> None:
    assert model_from_config(config, name="model", diagnostics=Diagnostics()).num_params == total


@pytest.mark.parametrize(("model_type", "config", "total"), CASES.values(), ids=CASES)
def test_published_total(model_type: str, config: dict[str, Any], total: int) -> None:
    graph = model_from_config({"model_type": model_type, **config}, name="model", diagnostics=Diagnostics())
    assert graph.num_params == total
