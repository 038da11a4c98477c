"""Percentiles of one length, in closed form, are those of many equal lengths, by bisection."""

from __future__ import annotations

import numpy as np
import pytest

from cost_models.serving.capacity import Entries, Pools, e2e_percentiles, state_at
from cost_models.serving.queueing import Arrivals
from cost_models.serving.requests import Requests


def pools_of(count: int) -> Pools:
    ones = np.ones(count)
    requests = Requests(
        input_tokens=100 * ones, new_tokens=100 * ones, output_tokens=11 * ones, weights=ones / count
    )
    row = np.array([[0.1, 0.9]])
    return Pools(
        requests=requests,
        arrivals=Arrivals(),
        rate_rps=row,
        step_s=row * 0 + 0.01,
        tpot_s=row * 0 + 0.01,
        tpot_high_s=row * 0 + 0.01,
        service_s=row * 0 + 1.0,
        service_scv=row * 0,
        own_ttft_s=np.full((1, 2, count), 0.3),
        sequences=row,
        mixed_share=row,
        num_ranks=np.ones(1),
        slots=np.full(1, np.inf),
    )


@pytest.mark.parametrize("position", [0.2, 0.8])
def test_one_length_agrees_with_many_equal_ones(position):
    wanted = np.array([50.0, 90.0, 99.0])
    entry = Entries.one(0, 1)
    found = [
        e2e_percentiles(pools, entry, state_at(pools, entry, np.array([position])), wanted, 0.01)
        for pools in (pools_of(1), pools_of(3))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
