"""Scales are exact where they can be, and round in the safe direction where not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.search.scaling import Scale, choose_scale


def test_exact_where_few_steps_suffice() -> None:
    scale = choose_scale([18.5, 18.1, 9.3, 0.6], most_steps=200)
    assert scale.exact
    assert scale.unit == pytest.approx(0.1)
    assert [scale.up(v) for v in (18.5, 18.1, 9.3, 0.6)] == [185, 181, 93, 6]


def test_inexact_prefers_units_that_nearly_fit() -> None:
    scale = choose_scale([29718.0, 29444.0, 19926.0], most_steps=8)
    assert not scale.exact
    assert [scale.nearest(v) for v in (29718.0, 29444.0, 19926.0)] in ([3, 3, 2], [6, 6, 4])


@pytest.mark.parametrize("values", [[], [0.0], [-1.0, 2.0], [float("inf")]])
def test_nothing_to_scale_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="scale"):
        choose_scale(values, most_steps=10)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5), st.integers(2, 40))
def test_rounding_is_safe(values: list[float], most: int) -> None:
    scale: Scale = choose_scale(values, most_steps=most)
    for value in values:
        slack = 1e-8 * value
        assert scale.down(value) * scale.unit <= value + slack
        assert scale.up(value) * scale.unit >= value - slack
        assert scale.up(value) <= most + 1
