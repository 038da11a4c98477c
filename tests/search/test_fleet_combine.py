"""One option per model under shared limits, against trying every combination."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

import planner.search.fleet_combine as module
from planner.search.fleet_combine import Options, TooManyError, combine


def _case(seed: int, num_models: int, num_rows: int) -> tuple[list[Options], np.ndarray, np.ndarray]:
    """Return options with whole uses, the limits, and prices on the rows at which excess is taken."""
    chance = np.random.default_rng(seed)
    prices = chance.choice([0.0, 0.5, 1.5], size=num_rows)
    models: list[Options] = []
    for _ in range(num_models):
        uses = chance.integers(0, 6, size=(chance.integers(1, 7), num_rows)).astype(np.float64)
        cost = chance.integers(1, 20, size=len(uses)).astype(np.float64)
        priced = cost + uses @ prices
        models.append(Options(uses=uses, cost=cost, excess=priced - priced.min()))
    limits = chance.integers(num_models, 4 * num_models, size=num_rows).astype(np.float64)
    return models, limits, prices


def _brute(models: list[Options], limits: np.ndarray) -> float:
    best = np.inf
    for chosen in product(*(range(one.cost.size) for one in models)):
        uses = sum(one.uses[at] for one, at in zip(models, chosen, strict=True))
        if (uses <= limits).all():
            best = min(best, sum(one.cost[at] for one, at in zip(models, chosen, strict=True)))
    return float(best)


@pytest.mark.parametrize("seed", range(60))
def test_the_cheapest_combination_is_found(seed: int) -> None:
    models, limits, prices = _case(seed, 1 + seed % 5, 1 + seed % 3)
    found = combine(models, limits, np.inf)
    best = _brute(models, limits)
    if found is None:
        assert not np.isfinite(best)
        return
    uses = sum(one.uses[at] for one, at in zip(models, found, strict=True))
    assert (uses <= limits).all()
    cost = sum(one.cost[at] for one, at in zip(models, found, strict=True))
    assert cost == pytest.approx(best)
    # The window counts from the Lagrangian bound at these prices: an optimum inside it is found all the same.
    bound = sum((one.cost + one.uses @ prices).min() for one in models) - limits @ prices
    again = combine(models, limits, best - bound)
    assert again is not None
    assert sum(one.cost[at] for one, at in zip(models, again, strict=True)) == pytest.approx(best)


def test_nothing_is_said_to_fit_where_nothing_does() -> None:
    one = Options(uses=np.array([[3.0]]), cost=np.array([1.0]), excess=np.array([0.0]))
    assert combine([one, one], np.array([5.0]), 1.0) is None
    assert combine([one, one], np.array([6.0]), 1.0) == (0, 0)


def test_too_many_partial_answers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PARTIAL", 10)
    chance = np.random.default_rng(3)
    models = [
        Options(uses=chance.random((8, 2)), cost=chance.random(8), excess=np.zeros(8)) for _ in range(3)
    ]
    with pytest.raises(TooManyError):
        combine(models, np.array([0.9, 0.9]), 1.0)
