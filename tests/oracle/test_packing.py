"""Packings against all packings of tiny batches, enumerated."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest

from cost_models.sequences.times import SequenceCosts
from planner.ir.packing import PackingProblem
from planner.search.packing import PackingOptions, pack
from planner.simulate.packing_replay import replay_packing


def _costs(microbatch_s: float) -> SequenceCosts:
    return SequenceCosts(
        token_s=1.0,
        attention=((0.02, 0), (0.05, 20)),
        exchange_bytes_per_token=2.0,
        near_bytes_per_s=100.0,
        far_bytes_per_s=10.0,
        ranks_per_node=2,
        microbatch_s=microbatch_s,
        rank_tokens=30,
        kv_share=0.1,
    )


def _partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for smaller in _partitions(rest):
        yield [[first], *smaller]
        for i in range(len(smaller)):
            yield [*smaller[:i], [first, *smaller[i]], *smaller[i + 1 :]]


def _group_s(problem: PackingProblem, items: list[int], degree: int) -> float:
    """Return the least time of the group over all ways to form micro-batches and all numbers of chunks."""
    costs, lengths = problem.costs, problem.lengths
    best = float("inf")
    for parts in _partitions(items):
        total = 0.0
        for part in parts:
            tokens = sum(lengths[i] for i in part)
            once = sum(costs.sequence_s(lengths[i], degree) for i in part)
            if tokens <= costs.rank_tokens * degree:
                total += once + costs.microbatch_s
                continue
            fits = [
                n
                for n in range(2, 60)
                if problem.chunked
                and len(part) == 1
                and tokens / n + costs.kv_share * tokens <= costs.rank_tokens * degree
            ]
            if not fits:
                total = float("inf")
                break
            total += once * (1 + (1 - 1 / fits[0]) / 3) + costs.microbatch_s * fits[0]
        best = min(best, total)
    return best


def _brute(problem: PackingProblem) -> float:
    places = [
        (first, degree)
        for degree in problem.degrees()
        for first in range(0, problem.num_ranks - degree + 1, degree)
    ]
    best = float("inf")
    for choice in product(places, repeat=len(problem.lengths)):
        load = [0.0] * problem.num_ranks
        for first, degree in set(choice):
            own = [i for i, place in enumerate(choice) if place == (first, degree)]
            time = _group_s(problem, own, degree)
            for rank in range(first, first + degree):
                load[rank] += time
        best = min(best, max(load))
    return best


def _problem(seed: int, microbatch_s: float) -> PackingProblem:
    rng = random.Random(seed)
    num_ranks = rng.choice([2, 3, 4])
    lengths = tuple(rng.choice([4, 7, 12, 20, 29, 33, 50]) for _ in range(rng.choice([3, 4])))
    return PackingProblem(
        lengths=lengths,
        num_ranks=num_ranks,
        largest_degree=2 if num_ranks < 4 else 4,
        chunked=bool(seed % 2),
        costs=_costs(microbatch_s),
    )


@pytest.mark.parametrize("seed", range(10))
def test_without_fixed_times_the_best_of_all_is_found(seed: int) -> None:
    problem = _problem(seed, 0.0)
    found = pack(problem, PackingOptions(effort=2.0, time_limit_s=5.0))
    replay_packing(problem, found)
    best = _brute(problem)
    assert found.bound_s <= best * (1 + 1e-9)
    assert found.time_s == pytest.approx(best, rel=5e-4)
    assert found.gap < 1e-3


@pytest.mark.parametrize("seed", range(10, 18))
def test_with_fixed_times_the_bound_holds(seed: int) -> None:
    problem = _problem(seed, 6.0)
    found = pack(problem, PackingOptions(effort=2.0, time_limit_s=5.0))
    replay_packing(problem, found)
    best = _brute(problem)
    assert found.bound_s <= best * (1 + 1e-9)
    assert best <= found.time_s * (1 + 1e-9)
    assert found.time_s <= best * 1.1
