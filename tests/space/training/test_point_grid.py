"""Points in parts are the points in one piece, and prices that are remembered are those that were asked."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from cost_models.cost import Cost
from cost_models.work import Gemm, Work
from hardware_profiles.provenance import Provenance
from planner.space.training.grid import plan_columns
from planner.space.training.known_prices import KnownPrices
from planner.space.training.plans import PlanArrays, concatenate, distinct
from planner.space.training.point_grid import PointGrid

PARTS = [
    plan_columns(3, tp=2, pp=np.array([1, 2, 3]), micro_batch=np.array([1, 1, 4])),
    plan_columns(0, tp=8, pp=np.zeros(0, dtype=np.int64)),
    plan_columns(2, tp=4, pp=np.array([7, 5]), micro_batch=np.array([2, 4])),
]


def same(left: PlanArrays, right: PlanArrays) -> bool:
    return all(np.array_equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(PlanArrays))


def test_parts_are_one_piece() -> None:
    grid, whole = PointGrid(PARTS), concatenate(PARTS)
    assert len(grid) == len(whole) == 5
    assert same(concatenate(list(grid.batches())), whole)
    assert grid.micro_batches().tolist() == [1, 2, 4]


@pytest.mark.parametrize("index", [[4, 0, 3, 0], [2], [1, 2, 0, 4, 3]])
def test_taken_points_keep_the_order_that_was_asked_for(index: list[int]) -> None:
    numbers = np.array(index)
    assert same(PointGrid(PARTS).take(numbers), concatenate(PARTS).take(numbers))


def test_distinct_rows_are_those_of_a_unique_over_columns() -> None:
    rng = np.random.default_rng(3)
    columns = [rng.integers(0, most, 400) for most in (3, 1, 5, 2)]
    first, inverse = distinct(columns)
    rows, expected = np.unique(np.stack(columns), axis=1, return_inverse=True)
    assert np.array_equal(np.stack([c[first] for c in columns]), rows)
    assert np.array_equal(inverse, expected.ravel())


def test_equal_work_is_priced_once_and_other_work_anew() -> None:
    asked: list[Work] = []

    class Counting:
        def price(self, work: Work) -> Cost:
            asked.append(work)
            zero = np.zeros(1)
            return Cost(time_s=zero + len(asked), variance_s2=zero, provenance=Provenance.ASSUMED)

    prices = KnownPrices(Counting())

    def seconds(m: list[float], fmt: str = "bf16") -> float:
        return float(prices.price(Gemm(m=np.array(m), n=4.0, k=8.0, fmt=fmt)).time_s[0])

    assert seconds([1.0, 2.0]) == seconds([1.0, 2.0]) == 1.0
    assert seconds([1.0, 3.0]) == 2.0
    assert seconds([1.0, 2.0], "fp8") == 3.0
    assert len(asked) == 3
