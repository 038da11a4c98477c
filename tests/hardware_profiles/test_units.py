from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware_profiles.errors import ProfileError
from hardware_profiles.units import Dimension, dimensions, format_quantity, parse_quantity


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("80 GB", "bytes", 80e9),
        ("80GB", "bytes", 80e9),
        ("64 GiB", "bytes", 64 * 2**30),
        ("81559 MiB", "bytes", 81559 * 2**20),
        ("3.35 TB/s", "bytes_per_s", 3.35e12),
        ("400 Gb/s", "bytes_per_s", 50e9),
        ("400Gbps", "bytes_per_s", 50e9),
        ("400 Gbit / s", "bytes_per_s", 50e9),
        ("50 GBps", "bytes_per_s", 50e9),
        ("989 TFLOP/s", "flops_per_s", 989e12),
        ("1.8 PFLOPS", "flops_per_s", 1.8e15),
        ("624 TOPS", "flops_per_s", 624e12),
        ("30ms", "time", 0.03),
        ("1s", "time", 1.0),
        ("2.5 us", "time", 2.5e-6),
        ("2.5 µs", "time", 2.5e-6),
        ("5 min", "time", 300.0),
        ("700 W", "power", 700.0),
        ("1.2 kW", "power", 1200.0),
        ("1.5 kWh", "energy", 5.4e6),
        ("$2.50/h", "usd_per_hour", 2.5),
        ("2.5 USD/hour", "usd_per_hour", 2.5),
        ("$30", "usd", 30.0),
        ("8", "rate", 8.0),
        ("600/min", "rate", 10.0),
        ("8 req/s", "rate", 8.0),
        ("4k", "count", 4000.0),
        (1e9, "bytes", 1e9),
        ("1e9", "bytes", 1e9),
        (0, "time", 0.0),
    ],
)
def test_parse(text: object, dimension: Dimension, value: float) -> None:
    assert parse_quantity(text, dimension) == value


@pytest.mark.parametrize(
    ("given_value", "dimension", "words"),
    [
        ("80 W", "bytes", "not a power"),
        ("80 GB", "bytes_per_s", "not a size"),
        ("3.35 TB/s", "flops_per_s", "not a bandwidth"),
        ("80 gb", "bytes", "Did you mean GB"),
        ("80 Gb", "bytes", "unknown unit 'Gb'"),
        ("30 m", "time", "unknown unit 'm'"),
        ("-1 s", "time", "cannot be negative"),
        (-3, "count", "cannot be negative"),
        (math.nan, "time", "must be finite"),
        (math.inf, "power", "must be finite"),
        ("1e999 s", "time", "out of any sensible range"),
        ("9" * 100, "bytes", "100 characters"),
        ("GB", "bytes", "expected a size"),
        ("1,5 GB", "bytes", "unknown unit"),
        ("80 GB; rm -rf /", "bytes", "unknown unit"),
        (True, "count", "expected a count"),
        (None, "bytes", "expected a size"),
        ([80], "bytes", "expected a size"),
    ],
)
def test_refused_with_a_reason(given_value: object, dimension: Dimension, words: str) -> None:
    with pytest.raises(ProfileError, match="allowed: ") as caught:
        parse_quantity(given_value, dimension)
    assert words in str(caught.value)


def test_a_unit_can_be_demanded() -> None:
    with pytest.raises(ProfileError, match="needs its unit"):
        parse_quantity(80, "bytes", allow_bare=False)
    with pytest.raises(ProfileError, match="needs its unit"):
        parse_quantity("80", "bytes", allow_bare=False)


def test_error_messages_stay_short_for_huge_numbers() -> None:
    with pytest.raises(ProfileError) as caught:
        parse_quantity(10**400, "bytes")
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (80e9, "bytes", "80 GB"),
        (3.35e12, "bytes_per_s", "3.35 TB/s"),
        (989.4e12, "flops_per_s", "989.4 TFLOP/s"),
        (0.03, "time", "30 ms"),
        (1.9e-6, "time", "1.9 us"),
        (700.0, "power", "700 W"),
        (2.5, "usd_per_hour", "2.5 USD/h"),
        (8.0, "rate", "8/s"),
        (132.0, "count", "132"),
        (0.0, "bytes", "0 B"),
    ],
)
def test_print(value: float, dimension: Dimension, text: str) -> None:
    assert format_quantity(value, dimension) == text


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    value=st.floats(min_value=1e-12, max_value=1e24, allow_nan=False) | st.integers(0, 10**15).map(float),
    dimension=st.sampled_from(dimensions()),
)
def test_print_then_parse_gives_the_same_number(value: float, dimension: Dimension) -> None:
    assert parse_quantity(format_quantity(value, dimension), dimension) == value
