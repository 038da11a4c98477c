"""Spares against a simulated repair shop, order statistics against drawn numbers."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from cost_models.operations.spares import NodePool, best_spares, spare_speed
from cost_models.operations.stragglers import (
    backup_rate,
    best_num_backups,
    eviction_pays_after_s,
    order_statistic,
    slowest_factor,
)

POOL = NodePool(num_nodes=100, nodes_per_replica=10, node_mtbf_s=1e6, repair_s=2e4)


def _broken_shares(pool: NodePool, horizon_s: float) -> dict[int, float]:
    """Share of time with so many nodes in repair, with repairs of fixed length."""
    rng = np.random.default_rng(5)
    now, shares, back = 0.0, {}, []  # type: ignore[var-annotated]
    failure = float(rng.exponential(pool.node_mtbf_s / pool.num_nodes))
    while now < horizon_s:
        then = min(failure, back[0] if back else failure)
        shares[len(back)] = shares.get(len(back), 0.0) + then - now
        now = then
        if back and back[0] <= now:
            heapq.heappop(back)
        else:
            heapq.heappush(back, now + pool.repair_s)
            failure = now + float(rng.exponential(pool.node_mtbf_s / pool.num_nodes))
    return {count: share / now for count, share in shares.items()}


def test_speed_is_that_of_a_simulated_repair_shop() -> None:
    shares = _broken_shares(POOL, 1e8)
    for spares in (0, 2, 4):
        waits = sum(share for count, share in shares.items() if count <= spares)
        assert spare_speed(POOL, spares, "wait") == pytest.approx(waits, abs=0.015)
        shrunk = sum(share * (1 - max(0, count - spares) / 10) for count, share in shares.items())
        assert spare_speed(POOL, spares, "shrink") == pytest.approx(shrunk, abs=0.015)


def test_best_number_of_spares_is_the_best_of_all() -> None:
    for policy in ("wait", "shrink"):
        best = best_spares(POOL, policy)
        values = {s: spare_speed(POOL, s, policy) / (100 + s) for s in range(20)}
        assert values[best.num_spares] == max(values.values())
    never = NodePool(num_nodes=4, nodes_per_replica=1, node_mtbf_s=1e12, repair_s=1.0)
    assert best_spares(never, "wait").num_spares == 0


@pytest.mark.parametrize(("rank", "count"), [(1, 1), (5, 5), (1, 8), (30, 32), (1000, 1024)])
def test_order_statistics(rank: int, count: int) -> None:
    drawn = np.sort(np.random.default_rng(1).normal(size=(4_000, count)) if count < 100 else _large(count))
    assert order_statistic(rank, count) == pytest.approx(drawn[:, rank - 1].mean(), abs=0.04)


def _large(count: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(1000, count))


def test_stragglers_and_backups() -> None:
    assert slowest_factor(1, 0.1) == pytest.approx(1.0)
    assert slowest_factor(2, 0.1) == pytest.approx(1 + 0.1 / np.pi**0.5)
    assert best_num_backups(16, 0.0) == 0
    best = best_num_backups(64, 0.5)
    assert best > 0
    assert backup_rate(64, best, 0.5) == max(backup_rate(64, b, 0.5) for b in range(13))


def test_replacing_a_slow_node() -> None:
    after = eviction_pays_after_s(0.1, 600.0)
    # Work of that time at full speed, plus the standstill, takes just as long as with the slow node.
    assert after / 1.1 + 600.0 == pytest.approx(after)
