from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.frontend.host_lists import expand_hosts


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("gpu[01-03,12]", ["gpu01", "gpu02", "gpu03", "gpu12"]),
        ("gpu[9-11],login1", ["gpu9", "gpu10", "gpu11", "login1"]),
        ("r[1-2]n[01-02]", ["r1n01", "r1n02", "r2n01", "r2n02"]),
        ("", []),
    ],
)
def test_expand(text: str, names: list[str]) -> None:
    assert list(expand_hosts(text, file="x", line=1)) == names


@settings(max_examples=50, deadline=None, derandomize=True)
@given(first=st.integers(0, 500), count=st.integers(1, 300), width=st.integers(1, 6))
def test_a_range_has_every_number_once(first: int, count: int, width: int) -> None:
    low, high = str(first).zfill(width), str(first + count - 1).zfill(width)
    names = expand_hosts(f"n[{low}-{high}]", file="x", line=1)
    assert [int(name[1:]) for name in names] == list(range(first, first + count))
    assert all(len(name) >= 1 + width for name in names)
