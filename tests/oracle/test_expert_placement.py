"""Placements of experts against brute force: all numbers of copies, on all ranks."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.expert_placement import place_experts
from planner.space.expert_copies import in_order


def brute(loads: list[float], num_ranks: int, num_redundant: int) -> float:
    """The lightest fullest rank over every choice of copies and every way to deal them out."""
    best = float("inf")
    for extra in combinations_with_replacement(range(len(loads)), num_redundant):
        copies = [1 + extra.count(expert) for expert in range(len(loads))]
        slots = [expert for expert, count in enumerate(copies) for _ in range(count)]
        each = len(slots) // num_ranks
        for order in set(permutations(slots)):
            ranks = [order[k * each : (k + 1) * each] for k in range(num_ranks)]
            best = min(best, max(sum(loads[e] / copies[e] for e in rank) for rank in ranks))
    return best


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0, 9.0, 20.0]), min_size=4, max_size=4),
    st.sampled_from([(2, 0), (2, 2), (3, 2), (1, 1), (4, 0)]),
)
def test_small_layers_are_solved_exactly(loads: list[float], how: tuple[int, int]) -> None:
    num_ranks, num_redundant = how
    found = place_experts(loads, num_ranks, num_redundant)
    assert found.fullest == pytest.approx(brute(loads, num_ranks, num_redundant), abs=1e-9)
    assert found.bound <= found.fullest * (1 + 1e-9)
    check(found.slots, loads, num_ranks, found.fullest)


def check(slots: tuple[int, ...], loads: list[float], num_ranks: int, fullest: float) -> None:
    counts, each = Counter(slots), len(slots) // num_ranks
    assert set(counts) == set(range(len(loads)))
    ranks = [slots[k * each : (k + 1) * each] for k in range(num_ranks)]
    assert max(sum(loads[e] / counts[e] for e in rank) for rank in ranks) == pytest.approx(fullest)


def test_many_experts_come_close_to_the_bound_and_copies_help() -> None:
    rng = np.random.default_rng(7)
    loads = (1e4 * rng.pareto(1.2, 256)).tolist()
    plain = place_experts(loads, 16, 0)
    copied = place_experts(loads, 16, 32)
    check(copied.slots, loads, 16, copied.fullest)
    assert in_order(loads, 16) >= plain.fullest > copied.fullest
    assert copied.fullest <= 1.02 * copied.bound


def test_ranks_must_be_filled_evenly() -> None:
    with pytest.raises(ValueError, match="evenly"):
        place_experts([1.0] * 8, 3, 0)
    assert place_experts([0.0] * 8, 4, 0).skew == 1.0
