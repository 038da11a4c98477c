"""Covers of a rate: all of a window are listed, and a window that holds none gives none."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from planner.search.fleet_covers import FillTable, Half


def _half(rate_rps: float, *capacities: list[float]) -> Half:
    """Return a half whose groups carry so much with 1, 2, ... devices."""
    tables = {
        group: FillTable(
            columns=(),
            best=np.array([0.0, *carried]),
            last=np.full(len(carried) + 1, -1, dtype=np.int64),
        )
        for group, carried in enumerate(capacities)
    }
    return Half(rate_rps=rate_rps, num_groups=len(capacities), tables=tables)


def test_a_window_below_the_cheapest_cover_holds_none() -> None:
    # one device of the first group is the best buy, but there is no second
    half = _half(10.0, [4.0], [2.0, 4.0, 6.0, 8.0, 10.0])
    weights = np.array([1.0, 1.0])
    cost, cover = half.least(weights)
    assert cost == pytest.approx(4.0)
    assert cover is not None
    assert cover.tolist() == [1, 3]
    covers, complete = half.within(weights, 3.0)
    assert (covers.shape, complete) == ((0, 2), True)


@pytest.mark.parametrize("seed", range(40))
def test_windows_list_what_trying_everything_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    capacities = [np.cumsum(rng.uniform(0.5, 3.0, rng.integers(1, 5))).tolist() for _ in range(3)]
    rate = float(rng.uniform(1.0, sum(c[-1] for c in capacities)))
    weights = rng.uniform(0.5, 2.0, 3)
    half = _half(rate, *capacities)
    fitting = [
        cover
        for cover in product(*(range(len(c) + 1) for c in capacities))
        if sum(c[n - 1] if n else 0.0 for c, n in zip(capacities, cover, strict=True)) >= rate * (1 - 1e-9)
    ]
    least = min(float(weights @ cover) for cover in fitting)
    assert half.least(weights)[0] == pytest.approx(least)
    for limit in (0.9 * least, 1.1 * least, 1.5 * least):
        listed, complete = half.within(weights, limit)
        inside = [c for c in fitting if weights @ c <= limit + 1e-9]
        minimal = {c for c in inside if not any(o != c and np.less_equal(o, c).all() for o in inside)}
        assert complete
        assert {tuple(row) for row in listed.tolist()} == minimal
