"""Partial paths: equal lengths, ends kept, visits that leave the busiest stage with as little as possible."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from planner.errors import InputError
from planner.space.partial_paths import partial_paths


@pytest.mark.parametrize(
    ("work_s", "count", "length"),
    [((1, 1, 1, 1), 4, 3), ((1, 3, 1, 2, 1), 6, 4), ((2, 5, 1, 1, 4, 2), 3, 4), ((1, 1, 1), 2, 2)],
)
def test_paths_are_even_and_the_busiest_stage_has_least(
    work_s: tuple[float, ...], count: int, length: int
) -> None:
    paths = partial_paths(work_s, count, length)
    assert len(paths) == count
    for path in paths:
        assert len(path) == length
        assert list(path) == sorted(set(path))
        assert (path[0], path[-1]) == (0, len(work_s) - 1)
    visits = Counter(stage for path in paths for stage in path)
    inner = range(1, len(work_s) - 1)
    best = min(
        max((n * work_s[s] for s, n in zip(inner, numbers, strict=True)), default=0.0)
        for numbers in product(range(count + 1), repeat=len(inner))
        if sum(numbers) == count * (length - 2)
    )
    assert max((visits[s] * work_s[s] for s in inner), default=0.0) == best


def test_short_pipelines_have_one_path() -> None:
    assert partial_paths((1.0,), 2, 1) == ((0,), (0,))
    assert partial_paths((1.0, 2.0), 2, 2) == ((0, 1), (0, 1))


@pytest.mark.parametrize("length", [0, 1, 5])
def test_lengths_that_no_path_has(length: int) -> None:
    with pytest.raises(InputError, match="--path-length"):
        partial_paths((1.0, 1.0, 1.0, 1.0), 2, length)
