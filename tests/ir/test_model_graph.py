from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.frontend.models import load_model
from planner.ir.model_graph import AttentionCore, Experts, Linear, Small, StateCore, op_params


def linear(**changes: object) -> Linear:
    fields = {"name": "w", "in_features": 64, "out_features": 96, "shard": "column", "slot": "attention"}
    return Linear(**(fields | changes))  # pyright: ignore[reportArgumentType] - fields by name


def test_a_column_map_splits_outputs_and_bias() -> None:
    assert linear(bias=True).num_params_per_rank(4) == 64 * 24 + 24


def test_a_row_map_keeps_its_bias_whole() -> None:
    assert linear(shard="row", bias=True).num_params_per_rank(4) == 16 * 96 + 96


def test_kv_heads_are_replicated_when_ranks_outnumber_them() -> None:
    # Two heads of 48: on eight ranks each rank holds one whole head.
    assert linear(shard="kv_column", num_units=2).num_params_per_rank(8) == 64 * 48


def test_a_vocabulary_is_padded_to_64_rows_before_it_is_split() -> None:
    table = linear(in_features=100, out_features=10, shard="vocab", slot="embedding")
    head = linear(in_features=10, out_features=100, shard="vocab", slot="head")
    assert table.num_params_per_rank(4) == 32 * 10
    assert head.num_params_per_rank(4) == 32 * 10


def test_experts_split_by_count_and_by_width() -> None:
    experts = Experts(name="e", num_experts=8, top_k=2, hidden=16, inter=32, bias=True)
    assert experts.num_params == 8 * (3 * 16 * 32 + 2 * 32 + 16)
    assert experts.num_params_per_rank(ep=4, moe_tp=2) == 2 * (3 * 16 * 16 + 2 * 16 + 16)


def core(**changes: object) -> AttentionCore:
    fields = {"kind": "gqa", "num_heads": 8, "num_kv_heads": 2, "head_dim": 16, "v_head_dim": 8}
    return AttentionCore(**(fields | changes))  # pyright: ignore[reportArgumentType] - fields by name


def test_the_cache_of_a_window_stops_growing() -> None:
    assert [core(window=4).cache_elems(n) for n in (3, 4, 9)] == [3 * 48, 4 * 48, 4 * 48]


def test_a_latent_cache_is_whole_on_every_rank() -> None:
    mla = core(kind="mla", latent_dim=32, rope_dim=8, index_dim=4)
    assert (mla.kv_elems_per_token, mla.cache_elems_per_token) == (40, 44)
    assert mla.cache_elems_per_token_per_rank(8) == 44


def test_a_compressed_cache_keeps_its_window_and_one_entry_per_group() -> None:
    mla = core(kind="mla", latent_dim=24, rope_dim=8, index_dim=4, window=8, compress_ratio=4)
    # 100 tokens: 8 in the window, 25 groups of 32 elements, and as many index keys of 4.
    assert mla.cache_elems(100) == (8 + 25) * 32 + 25 * 4


def test_groups_of_a_state_are_replicated() -> None:
    state = StateCore(
        kind="mamba2", num_heads=8, recurrent_elems=800, conv_elems=160, num_groups=2, group_conv_elems=32
    )
    assert state.recurrent_elems_per_rank(4) == 200
    assert state.conv_elems_per_rank(4) == 128 // 4 + 32 // 2


def test_a_tied_head_adds_only_its_bias_and_a_buffer_adds_nothing() -> None:
    assert op_params(linear(tied=True, bias=True)) == 96
    assert op_params(Small(name="b", num_params=5, buffer=True)) == 0


def test_equal_layers_are_one_object() -> None:
    graph = load_model("deepseek-v3", diagnostics=Diagnostics())
    assert len({id(layer) for layer in graph.layers}) == 2
    assert [count for _, count in graph.layer_runs()] == [3, 58]


def test_the_checkpoint_format_keeps_each_weight_as_stored() -> None:
    graph = load_model("gpt-oss-120b", diagnostics=Diagnostics())
    by_name = {op.name: op for op in graph.layers[0].ops if isinstance(op, Linear | Experts)}
    experts, query = by_name["mlp.experts"], by_name["self_attn.q_proj"]
    assert [graph.weight_fmt(op, "mxfp4") for op in (experts, query)] == ["mxfp4", "bf16"]
    assert [graph.weight_fmt(op, "bf16") for op in (experts, query)] == ["bf16", "bf16"]


@given(tp=st.sampled_from([1, 2, 4, 8, 16]), name=st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "glm-5"]))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_the_ranks_together_hold_every_weight(tp: int, name: str) -> None:
    graph = load_model(name, diagnostics=Diagnostics())
    for layer in graph.layers:
        for op in layer.ops:
            if isinstance(op, Linear | Small):
                one = op.num_params_per_rank(tp)
                assert op.num_params <= tp * one
                assert one <= op.num_params
