"""Steps are priced over the counts that they really have."""

from __future__ import annotations

import numpy as np
import pytest

from planner.space.pricing import spread_out


def test_small_steps_are_priced_as_they_are():
    assert (spread_out(np.array([1.0, 32.0])) == np.array([[1.0] * 5, [32.0] * 5])).all()


def test_large_steps_spread_by_the_square_root_of_their_mean():
    found = spread_out(np.array([256.0]))
    assert found.mean() == pytest.approx(256.0)
    assert found.max() == pytest.approx(256.0 + 1.2816 * 16.0)
