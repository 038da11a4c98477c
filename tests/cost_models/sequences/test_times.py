"""Times and memory of sequences: values worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cost_models.sequences.times import (
    SequenceCosts,
    attention_pairs,
    exchange_bytes,
    pair_flops,
    token_flops,
)

COSTS = SequenceCosts(
    token_s=2.0,
    attention=((0.5, 0), (0.25, 4)),
    exchange_bytes_per_token=6.0,
    near_bytes_per_s=4.0,
    far_bytes_per_s=1.0,
    ranks_per_node=2,
    microbatch_s=0.0,
    rank_tokens=10,
    kv_share=0.25,
)


def test_pairs_are_those_of_a_causal_band() -> None:
    assert attention_pairs(8, 0) == 32
    assert attention_pairs(8, 8) == 32
    assert attention_pairs(8, 16) == 32
    # 4 rows fill the window, 4 more see 4 each.
    assert attention_pairs(8, 4) == 8 + 16


def test_time_of_a_sequence() -> None:
    work = 2 * 8 + 0.5 * 32 + 0.25 * 24
    assert COSTS.sequence_s(8, 1) == pytest.approx(work)
    # Two ranks of one node: each sends half of its 4 tokens in 8 exchanges.
    assert COSTS.sequence_s(8, 2) == pytest.approx(work / 2 + 8 * 4 * 0.5 * 6 / 4)
    # Four ranks of two nodes: 3 / 4 of 2 tokens, over the slower links.
    assert COSTS.sequence_s(8, 4) == pytest.approx(work / 4 + 8 * 2 * 0.75 * 6 / 1)
    # Four chunks: three of them forward twice, and a forward pass is a third of the work.
    assert COSTS.sequence_s(8, 1, 4) == pytest.approx(work * (1 + 3 / 4 / 3))


@pytest.mark.parametrize(
    ("length", "degree", "chunks"), [(10, 1, 1), (11, 1, 2), (20, 1, 4), (36, 1, 36), (39, 1, 0), (40, 4, 1)]
)
def test_chunks_leave_room_for_keys_and_values(length: int, degree: int, chunks: int) -> None:
    assert COSTS.num_chunks(length, degree) == chunks
    if chunks > 1:
        room = COSTS.rank_tokens * degree
        assert length / chunks + COSTS.kv_share * length <= room
        assert length / (chunks - 1) + COSTS.kv_share * length > room or chunks == 2


def test_a_model_of_8_billion_parameters() -> None:
    # 6 N per token; 32 heads of 128: 4 x 4096 FLOPs per pair forward, 2.5 times that backward.
    assert token_flops(8e9, recompute=False) == 48e9
    assert token_flops(8e9, recompute=True) == 64e9
    assert pair_flops(32, 128, recompute=False) == 4 * 4096 * 3.5
    assert exchange_bytes(4096, 32) == 2 * 4096 * 32


def test_a_faster_link_shortens_groups_only() -> None:
    faster = replace(COSTS, near_bytes_per_s=40.0)
    assert faster.sequence_s(8, 1) == COSTS.sequence_s(8, 1)
    assert faster.sequence_s(8, 2) < COSTS.sequence_s(8, 2)
