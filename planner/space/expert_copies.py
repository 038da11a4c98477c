"""Copies of hot experts, and the ranks they stand on: quick rules, the same as engines start from.

Copies go one by one to the heaviest share, shares to the lightest rank with room, heaviest first.

Source: R. L. Graham, Bounds on multiprocessing timing anomalies, 1969 (LPT); copies by greedy as in the
apportionment of seats.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

Loads = tuple[tuple[float, ...], ...]


def in_order(loads: Sequence[float], num_ranks: int) -> float:
    """Return the load of the fullest rank when experts stand in the order of their numbers, one of each."""
    each = -(-len(loads) // num_ranks)
    return max(sum(loads[k * each : (k + 1) * each]) for k in range(num_ranks))


def spread_copies(loads: Sequence[float], num_slots: int) -> list[int]:
    """Return copies per expert that make the heaviest copy as light as can be."""
    copies = [1] * len(loads)
    heap = [(-load, expert) for expert, load in enumerate(loads)]
    heapq.heapify(heap)
    for _ in range(num_slots - len(loads)):
        _, expert = heapq.heappop(heap)
        copies[expert] += 1
        heapq.heappush(heap, (-loads[expert] / copies[expert], expert))
    return copies


def by_weight(loads: Sequence[float], copies: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Put copies on the lightest rank with room, heaviest first; two of one expert apart where possible."""
    room = sum(copies) // num_ranks
    ranks: list[list[int]] = [[] for _ in range(num_ranks)]
    weight = [0.0] * num_ranks
    order = sorted(range(len(loads)), key=lambda e: (-loads[e] / copies[e], e))
    for expert in (e for e in order for _ in range(copies[e])):
        open_ranks = [k for k in range(num_ranks) if len(ranks[k]) < room]
        best = min(open_ranks, key=lambda k: (expert in ranks[k], weight[k], k))
        ranks[best].append(expert)
        weight[best] += loads[expert] / copies[expert]
    return ranks


def expert_map(loads: Loads, num_ranks: int, num_redundant: int) -> tuple[tuple[int, ...], ...]:
    """Return for every layer which expert stands in each slot, rank by rank."""
    found: list[tuple[int, ...]] = []
    for layer in loads:
        copies = spread_copies(layer, len(layer) + num_redundant)
        ranks = by_weight(layer, copies, num_ranks)
        found.append(tuple(expert for rank in ranks for expert in sorted(rank)))
    return tuple(found)


def mean_skew(loads: Loads, num_ranks: int, num_redundant: int) -> float:
    """Return the load of the fullest rank over the mean, all layers together.

    Without copies experts stand in the order of their numbers. Layers without load say nothing.
    """
    fullest = mean = 0.0
    for layer in loads:
        mean += sum(layer) / num_ranks
        if num_redundant == 0:
            fullest += in_order(layer, num_ranks)
            continue
        copies = spread_copies(layer, len(layer) + num_redundant)
        share = [load / count for load, count in zip(layer, copies, strict=True)]
        fullest += max(sum(share[e] for e in rank) for rank in by_weight(layer, copies, num_ranks))
    return fullest / mean if mean > 0.0 else 1.0
