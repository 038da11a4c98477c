"""Random small configs of every family against what the transformers library builds.

Needs torch and transformers, which the project does not: an optional lane. Run it with
``python -m pytest tests/differential`` in an environment that has transformers 5.23 and torch.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.frontend.models import model_from_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

Choices = dict[str, list[Any]]

DENSE: Choices = {
    "vocab_size": [96, 101],
    "hidden_size": [48, 96],
    "intermediate_size": [40, 64],
    "num_hidden_layers": [2, 3, 5],
    "num_attention_heads": [4, 6],
    "num_key_value_heads": [1, 2],
    "max_position_embeddings": [64],
    "tie_word_embeddings": [True, False],
}
BIAS: Choices = {"attention_bias": [True, False]}
HEAD: Choices = {"head_dim": [16, 24]}
MOE: Choices = {
    "num_experts_per_tok": [1, 2],
    "moe_intermediate_size": [16, 24],
}
MLA: Choices = {
    "q_lora_rank": [24, 32],
    "kv_lora_rank": [16],
    "qk_nope_head_dim": [8, 16],
    "qk_rope_head_dim": [8],
    "v_head_dim": [8, 24],
    "num_key_value_heads": [None],
    "head_dim": [None],
}
DEEPSEEK: Choices = {
    **MOE,
    "n_routed_experts": [4, 8],
    "n_shared_experts": [1, 2],
    "n_group": [1],
    "topk_group": [1],
    "first_k_dense_replace": [0, 1, 2],
}
INDEX: Choices = {"index_n_heads": [2], "index_head_dim": [16], "index_topk": [4]}
WINDOW: Choices = {"sliding_window": [8, None]}
DELTA: Choices = {
    "linear_conv_kernel_dim": [3, 4],
    "linear_key_head_dim": [8],
    "linear_value_head_dim": [16, 8],
    "linear_num_key_heads": [2],
    "linear_num_value_heads": [2, 4],
}
SSM2: Choices = {"n_groups": [1, 2], "conv_kernel": [3, 4], "use_conv_bias": [True, False]}

FAMILIES: dict[str, Choices] = {
    "llama": {**DENSE, **BIAS, "mlp_bias": [True, False], "head_dim": [None, 16]},
    "mistral": {**DENSE, **WINDOW, "head_dim": [None, 16]},
    "ministral": {**DENSE, "sliding_window": [8], "head_dim": [16]},
    "ministral3": {**DENSE, "head_dim": [16]},
    "mixtral": {**DENSE, **WINDOW, "num_local_experts": [4], "num_experts_per_tok": [2]},
    "qwen2": {
        **DENSE,
        "use_sliding_window": [True, False],
        "sliding_window": [8],
        "max_window_layers": [1, 2],
    },
    "qwen3": {**DENSE, **BIAS, **HEAD, "use_sliding_window": [True, False], "sliding_window": [8]},
    "qwen2_moe": {
        **DENSE,
        **MOE,
        "num_experts": [4],
        "shared_expert_intermediate_size": [32],
        "qkv_bias": [True, False],
        "mlp_only_layers": [[], [0]],
        "decoder_sparse_step": [1, 2],
    },
    "qwen3_moe": {**DENSE, **BIAS, **HEAD, **MOE, "num_experts": [4], "mlp_only_layers": [[], [1]]},
    "qwen3_next": {
        **DENSE,
        **HEAD,
        **MOE,
        **DELTA,
        "num_experts": [4],
        "shared_expert_intermediate_size": [32],
        "full_attention_interval": [2, 4],
    },
    "deepseek_v2": {**DENSE, **MLA, **DEEPSEEK, "q_lora_rank": [24, None], **BIAS},
    "deepseek_v3": {**DENSE, **MLA, **DEEPSEEK, "q_lora_rank": [24, None], **BIAS},
    "deepseek_v32": {
        **DENSE,
        **MLA,
        **DEEPSEEK,
        **INDEX,
        **BIAS,
        "head_dim": [8],
        "num_key_value_heads": [4],
    },
    "glm4_moe_lite": {**DENSE, **MLA, **DEEPSEEK, "first_k_dense_replace": [1], "num_key_value_heads": [4]},
    "mistral4": {**DENSE, **MLA, **DEEPSEEK, "num_key_value_heads": [4], "head_dim": [8]},
    "glm_moe_dsa": {
        **DENSE,
        **MLA,
        **DEEPSEEK,
        **INDEX,
        **BIAS,
        "head_dim": [8],
        "num_key_value_heads": [4],
        "index_topk_freq": [1, 2],
    },
    "deepseek_v4": {
        **DENSE,
        **DEEPSEEK,
        **INDEX,
        "head_dim": [32],
        "q_lora_rank": [24],
        "o_groups": [2],
        "o_lora_rank": [16],
        "num_key_value_heads": [1],
        "sliding_window": [8],
        "hc_mult": [2, 4],
        "num_hash_layers": [0, 1],
        "first_k_dense_replace": [0],
        "intermediate_size": [None],
        "compress_ratios": [[0, 4, 128, 4, 128, 0]],
    },
    "gpt_oss": {
        **DENSE,
        **BIAS,
        **HEAD,
        "sliding_window": [8],
        "num_local_experts": [4],
        "num_experts_per_tok": [2],
    },
    "gemma": {**DENSE, **BIAS, **HEAD},
    "gemma2": {**DENSE, **BIAS, **HEAD, "sliding_window": [8]},
    "gemma3_text": {**DENSE, **BIAS, **HEAD, "sliding_window": [8], "sliding_window_pattern": [2, 6]},
    "gemma4_text": {
        **DENSE,
        **BIAS,
        **HEAD,
        "num_attention_heads": [4],
        "sliding_window": [8],
        "global_head_dim": [32],
        "num_global_key_value_heads": [1, None],
        "attention_k_eq_v": [True, False],
        "hidden_size_per_layer_input": [0, 8],
        "vocab_size_per_layer_input": [96],
        "enable_moe_block": [True, False],
        "num_experts": [4],
        "top_k_experts": [2],
        "moe_intermediate_size": [16],
        "use_double_wide_mlp": [True, False],
        "layer_types": [["sliding_attention", "full_attention", "sliding_attention", "full_attention"]],
        "num_hidden_layers": [4],
        "num_kv_shared_layers": [0, 2],
    },
    "phi": {**DENSE, "qk_layernorm": [True, False]},
    "phi3": {**DENSE, **WINDOW, "pad_token_id": [0]},
    "phimoe": {
        **DENSE,
        **BIAS,
        "lm_head_bias": [True, False],
        "num_local_experts": [4],
        "num_experts_per_tok": [2],
    },
    "glm": {**DENSE, **BIAS, **HEAD, "pad_token_id": [0]},
    "glm4": {**DENSE, **BIAS, **HEAD, "pad_token_id": [0]},
    "glm4_moe": {**DENSE, **BIAS, **HEAD, **DEEPSEEK, "use_qk_norm": [True, False]},
    "minimax": {**DENSE, "head_dim": [None, 16], "num_local_experts": [4], "num_experts_per_tok": [2]},
    "minimax_m2": {**DENSE, **HEAD, "num_local_experts": [4], "num_experts_per_tok": [2]},
    "mimo_v2_flash": {
        **DENSE,
        **BIAS,
        **DEEPSEEK,
        "n_shared_experts": [None],
        "first_k_dense_replace": [1],
        "head_dim": [24],
        "v_head_dim": [16],
        "sliding_window": [8],
        "num_attention_heads": [8],
    },
    "nemotron": {**DENSE, **BIAS, "mlp_bias": [True, False], "head_dim": [None, 16]},
    "nemotron_h": {
        **DENSE,
        **HEAD,
        **SSM2,
        **BIAS,
        "num_hidden_layers": [None],
        "hybrid_override_pattern": ["M*-M", "MEM*E", "M-"],
        "ssm_state_size": [8],
        "mamba_num_heads": [4],
        "mamba_head_dim": [8],
        "n_routed_experts": [4],
        "num_experts_per_tok": [2],
        "moe_intermediate_size": [16],
        "moe_shared_expert_intermediate_size": [24],
        "moe_latent_size": [None, 32],
        "mlp_bias": [True, False],
        "use_bias": [True, False],
    },
    "jamba": {
        **DENSE,
        "num_experts": [4],
        "num_experts_per_tok": [2],
        "attn_layer_period": [2],
        "attn_layer_offset": [1],
        "expert_layer_period": [2],
        "expert_layer_offset": [0],
        "mamba_d_state": [8],
        "mamba_dt_rank": [8, "auto"],
        "mamba_conv_bias": [True, False],
        "mamba_proj_bias": [True, False],
        "pad_token_id": [0],
    },
    "bamba": {
        **DENSE,
        **BIAS,
        "hidden_size": [64],
        "num_attention_heads": [4],
        "mlp_bias": [True, False],
        "attn_layer_indices": [[1], []],
        "mamba_n_heads": [8],
        "mamba_d_head": [16, "auto"],
        "mamba_n_groups": [1, 2],
        "mamba_d_state": [8],
        "mamba_proj_bias": [True, False],
        "mamba_conv_bias": [True, False],
    },
    "mamba": {
        "vocab_size": [96],
        "hidden_size": [48, 40],
        "num_hidden_layers": [2],
        "state_size": [8],
        "time_step_rank": [6, "auto"],
        "use_bias": [True, False],
        "use_conv_bias": [True, False],
        "tie_word_embeddings": [True, False],
    },
    "falcon_mamba": {
        "vocab_size": [96],
        "hidden_size": [48],
        "num_hidden_layers": [2],
        "state_size": [8],
        "time_step_rank": [6, "auto"],
        "use_bias": [True, False],
        "tie_word_embeddings": [True, False],
    },
    "mamba2": {
        **SSM2,
        "vocab_size": [96],
        "hidden_size": [64],
        "num_hidden_layers": [2],
        "state_size": [8],
        "num_heads": [8],
        "head_dim": [16],
        "use_bias": [True, False],
        "tie_word_embeddings": [True, False],
    },
    "gpt2": {
        "vocab_size": [96],
        "n_positions": [32],
        "n_embd": [48],
        "n_layer": [2],
        "n_head": [4],
        "n_inner": [None, 40],
        "tie_word_embeddings": [True, False],
    },
    "gptj": {
        "vocab_size": [96],
        "n_positions": [32],
        "n_embd": [48],
        "n_layer": [2],
        "n_head": [4],
        "n_inner": [None, 40],
        "rotary_dim": [4],
    },
    "gpt_neox": {**DENSE, **BIAS, "num_key_value_heads": [None]},
    "opt": {
        "vocab_size": [96],
        "hidden_size": [48],
        "num_hidden_layers": [2],
        "ffn_dim": [40],
        "num_attention_heads": [4],
        "max_position_embeddings": [32],
        "word_embed_proj_dim": [48, 24],
        "do_layer_norm_before": [True, False],
        "enable_bias": [True, False],
        "tie_word_embeddings": [True, False],
    },
    "bloom": {
        "vocab_size": [96],
        "hidden_size": [48],
        "n_layer": [2],
        "n_head": [4],
        "tie_word_embeddings": [True, False],
    },
    "falcon": {
        "vocab_size": [96],
        "hidden_size": [48],
        "num_hidden_layers": [2],
        "num_attention_heads": [4],
        "num_kv_heads": [2],
        "new_decoder_architecture": [True, False],
        "multi_query": [True, False],
        "parallel_attn": [True, False],
        "bias": [True, False],
        "ffn_hidden_size": [None, 40],
    },
    "starcoder2": {**DENSE, **WINDOW, "use_bias": [True, False]},
    "cohere": {**DENSE, **BIAS, "use_qk_norm": [True, False]},
    "cohere2": {**DENSE, **BIAS, "sliding_window": [8], "head_dim": [None]},
    "granite": {**DENSE, **BIAS, "mlp_bias": [True, False]},
    "granitemoe": {**DENSE, **BIAS, "num_local_experts": [4], "num_experts_per_tok": [2]},
    "olmo2": {**DENSE, **BIAS},
    "olmo3": {**DENSE, **BIAS, "sliding_window": [8]},
    "olmoe": {**DENSE, **BIAS, "num_experts": [4], "num_experts_per_tok": [2]},
    "smollm3": {**DENSE, **BIAS, "mlp_bias": [True, False], "pad_token_id": [0]},
    "seed_oss": {**DENSE, **BIAS, **HEAD, "attention_out_bias": [True, False], "mlp_bias": [True, False]},
    "stablelm": {
        **DENSE,
        "use_qkv_bias": [True, False],
        "qk_layernorm": [True, False],
        "use_parallel_residual": [True, False],
    },
    "llama4_text": {
        **DENSE,
        **BIAS,
        "head_dim": [16],
        "num_local_experts": [4],
        "num_experts_per_tok": [1],
        "intermediate_size_mlp": [72],
        "interleave_moe_layer_step": [1, 2],
        "attention_chunk_size": [8],
    },
    "mllama_text_model": {**DENSE, "cross_attention_layers": [[1], []], "pad_token_id": [0]},
    "step3p5": {
        **DENSE,
        **HEAD,
        **MOE,
        "n_routed_experts": [4],
        "share_expert_dim": [16],
        "num_hidden_layers": [4],
        "num_sliding_attention_heads": [None, 8],
        "sliding_window": [8],
        "layer_types": [["full_attention", "sliding_attention", "full_attention", "sliding_attention"]],
        "num_attention_heads": [4],
        "tie_word_embeddings": [False],
    },
    "minimax_m3_vl_text": {
        **DENSE,
        **HEAD,
        "num_local_experts": [4],
        "num_experts_per_tok": [2],
        "dense_intermediate_size": [56],
        "shared_intermediate_size": [24],
        "moe_layer_freq": [[0, 1, 1]],
        "num_hidden_layers": [3],
        "sparse_attention_config": [
            {"sparse_attention_freq": [0, 1, 1], "sparse_num_index_heads": 2, "sparse_index_dim": 16}
        ],
    },
}
SEEDS = range(4)
CLASSES = {
    "mistral4": "Mistral4ForCausalLM",
    "mllama_text_model": "MllamaForCausalLM",
    "step3p5": "Step3p7TextModel",
}


def drawn(family: str, seed: int) -> dict[str, Any]:
    generator = random.Random(f"{family}-{seed}")
    return {key: generator.choice(values) for key, values in FAMILIES[family].items()}


def built(config: dict[str, Any], family: str) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    stated = {key: value for key, value in config.items() if value is not None or key == "q_lora_rank"}
    hf_config = CONFIG_MAPPING[family](**stated)
    with torch.device("meta"):
        try:
            model = AutoModelForCausalLM.from_config(hf_config)
        except ValueError:
            model = getattr(transformers, CLASSES[family])(hf_config)
            if family == "step3p5":
                model.lm_head = torch.nn.Linear(hf_config.hidden_size, hf_config.vocab_size, bias=False)
    model.tie_weights()
    return model.bfloat16()


def num_hf_params(model: Any) -> int:
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())


def tensors_in(states: Any) -> list[Any]:
    if states is None:
        return []
    if isinstance(states, dict):
        return list(states.values())
    return list(states) if isinstance(states, list | tuple) else [states]


def num_cached(model: Any, num_tokens: int) -> tuple[int, int, int]:
    """Elements of keys and values, of recurrent states and of convolution states after a forward pass."""
    ids = torch.zeros((1, num_tokens), dtype=torch.long, device="meta")
    output = model(input_ids=ids, use_cache=True)
    cache = output.past_key_values if "past_key_values" in output else output.cache_params
    kv = recurrent = conv = 0
    for layer in cache.layers:
        for name in ("keys", "values"):
            tensor = getattr(layer, name, None)
            kv += tensor.numel() if tensor is not None else 0
        for states, is_conv in (
            (getattr(layer, "recurrent_states", None), False),
            (getattr(layer, "conv_states", None), True),
        ):
            tensors = tensors_in(states)
            size = sum(t.numel() for t in tensors if t is not None)
            conv, recurrent = (conv + size, recurrent) if is_conv else (conv, recurrent + size)
    return kv, recurrent, conv


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_parameters(family: str, seed: int) -> None:
    config = drawn(family, seed)
    graph = model_from_config({"model_type": family, **config}, name=family, diagnostics=Diagnostics())
    assert graph.num_params == num_hf_params(built(config, family)), config


# Falcon repeats its keys and values to all heads before caching them; engines do not.
NO_FORWARD = {
    "falcon",
    "deepseek_v4",
    "minimax_m3_vl_text",
    "mllama_text_model",
    "minimax",
    "step3p5",
    "gemma4_text",
}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - NO_FORWARD))
def test_caches(family: str) -> None:
    config = {
        **drawn(family, 0),
        "num_key_value_heads": FAMILIES[family].get("num_key_value_heads", [None])[0],
    }
    graph = model_from_config({"model_type": family, **config}, name=family, diagnostics=Diagnostics())
    model = built(config, family)
    try:
        kv, recurrent, conv = num_cached(model, 5)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        pytest.skip(f"no forward pass on the meta device: {error}")
    assert (kv, recurrent, conv) == (
        5 * graph.kv_elems_per_token,
        graph.recurrent_elems_per_seq,
        graph.conv_elems_per_seq,
    ), config


if (
    __name__ == "__main__"
):  # python tests/differential/test_transformers.py > tests/data/models/small_configs.jsonl
    import json
    import warnings

    warnings.simplefilter("ignore")
    for name in FAMILIES:
        for number in (0, 1):
            drawing = drawn(name, number)
            config = {k: v for k, v in drawing.items() if v is not None or k == "q_lora_rank"}
            total = num_hf_params(built(drawing, name))
            print(json.dumps({"config": {"model_type": name, **config}, "num_params": total}))  # noqa: T201
