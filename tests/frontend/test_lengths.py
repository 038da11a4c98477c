"""Distributions keep their mean and their tail when they are reduced to few samples."""

from __future__ import annotations

from math import exp, fsum, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.frontend.lengths import (
    Points,
    fixed,
    from_trace,
    histogram,
    joint,
    lognormal,
    lognormal_from,
    mixture,
    uniform,
)
from planner.ir.trace import RequestTrace


def _mean(points: Points) -> float:
    return fsum(tokens * weight for tokens, weight in points)


def test_fixed_lengths_stay_one_sample() -> None:
    assert joint([(1.0, fixed(4000), fixed(500))], "fixed").samples == ((4000, 500, 1.0),)


@pytest.mark.parametrize(("low", "high"), [(1, 1), (1, 10), (10, 1000), (7, 8191), (1, 1_000_000)])
def test_uniform_has_its_mean_and_ends(low: int, high: int) -> None:
    points = uniform(low, high)
    assert _mean(points) == pytest.approx((low + high) / 2)
    assert fsum(weight for _, weight in points) == pytest.approx(1.0)
    assert points[-1][0] == high


@pytest.mark.parametrize(("mu", "sigma"), [(log(500), 0.3), (log(500), 1.0), (log(2000), 1.5)])
def test_lognormal_has_its_mean_and_quantiles(mu: float, sigma: float) -> None:
    points = lognormal(mu, sigma)
    assert _mean(points) == pytest.approx(exp(mu + sigma**2 / 2))
    below_median = fsum(weight for tokens, weight in points if tokens <= exp(mu))
    assert below_median == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize(
    "known",
    [
        {"mean": 1000.0, "median": 800.0},
        {"mean": 1000.0, "p90": 2000.0},
        {"median": 800.0, "p99": 5000.0},
        {"p90": 2000.0, "p99": 5000.0},
        {"median": 800.0, "sigma": 0.5},
        {"mean": 1000.0, "sigma": 0.5},
    ],
)
def test_lognormal_from_statistics_has_them(known: dict[str, float]) -> None:
    points = lognormal_from(known)
    if "mean" in known:
        assert _mean(points) == pytest.approx(known["mean"])
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99)):
        if name in known:
            assert fsum(w for tokens, w in points if tokens <= known[name]) == pytest.approx(share, abs=2e-3)


@pytest.mark.parametrize(
    "known",
    [{"mean": 10.0}, {"mean": 10.0, "p90": 1000.0}, {"mean": 10.0, "median": 20.0}, {"p90": 9.0, "p99": 8.0}],
)
def test_impossible_statistics_are_refused(known: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"log-normal|exactly two|quantile"):
        lognormal_from(known)


def test_mixture_and_histogram() -> None:
    points = mixture([(3.0, fixed(100)), (1.0, histogram([(200, 5), (300, 5), (400, 0)]))])
    assert points == ((100, 0.75), (200, 0.125), (300, 0.125))
    with pytest.raises(ValueError, match="positive"):
        histogram([(5, 0.0)])


TOKENS = st.integers(1, 20_000)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=300))
def test_a_trace_keeps_means_weight_and_longest_request(rows: list[tuple[int, int]]) -> None:
    inputs, outputs = zip(*rows, strict=True)
    lengths = from_trace(RequestTrace(source="t", arrival_s=(), input_tokens=inputs, output_tokens=outputs))
    assert len(lengths.samples) <= 64
    assert lengths.mean_input == pytest.approx(fsum(inputs) / len(rows), abs=0.51)
    assert lengths.mean_output == pytest.approx(fsum(outputs) / len(rows), abs=0.51)
    assert lengths.max_total == max(a + b for a, b in rows)
    assert fsum(w for _, _, w in lengths.samples) == pytest.approx(1.0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.tuples(TOKENS, st.floats(0.01, 10)), min_size=1, max_size=200), st.integers(1, 500))
def test_a_histogram_keeps_mean_and_top(entries: list[tuple[int, float]], output: int) -> None:
    points = histogram(entries)
    lengths = joint([(1.0, points, uniform(1, output))], "histogram")
    assert len(lengths.samples) <= 64
    assert lengths.mean_input == pytest.approx(_mean(points), abs=0.51)
    assert lengths.mean_output == pytest.approx((1 + output) / 2, abs=0.51)
    assert lengths.max_total == max(tokens for tokens, _ in entries) + output
