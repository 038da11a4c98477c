"""Resharding costs against sets of cells moved one by one."""

from __future__ import annotations

from itertools import product

import pytest

from cost_models.operations.resharding import StateLayout, reshard_cost, through_storage_s

CELLS = 24


def _cells(layout: StateLayout, rank: int) -> set[tuple[int, int, int]]:
    """Cells of a 24 x 24 x 24 grid (layers, tensor, data) that a rank holds."""
    tensor, rest = rank % layout.tensor, rank // layout.tensor
    data, pipeline = rest % layout.data, rest // layout.data
    if pipeline >= layout.pipeline:
        return set()
    ranges = [
        range(index * CELLS // count, (index + 1) * CELLS // count)
        for index, count in ((pipeline, layout.pipeline), (tensor, layout.tensor), (data, layout.data))
    ]
    if not layout.sharded:
        ranges[2] = range(CELLS)
    return set(product(*ranges))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((2, 2, 2), (2, 2, 2)),
        ((2, 2, 2), (4, 1, 2)),
        ((1, 8, 1), (2, 2, 2)),
        ((2, 1, 2), (2, 3, 2)),
        ((2, 3, 2), (1, 4, 1)),
    ],
)
@pytest.mark.parametrize("sharded", [True, False])
def test_missing_bytes(old: tuple[int, int, int], new: tuple[int, int, int], sharded: bool) -> None:
    before, after = (StateLayout(tensor=t, data=d, pipeline=p, sharded=sharded) for t, d, p in (old, new))
    per_node = 2
    ranks = max(before.num_ranks, after.num_ranks)
    missing = []
    for first in range(0, ranks, per_node):
        has: set[tuple[int, int, int]] = set()
        wants: set[tuple[int, int, int]] = set()
        for rank in range(first, first + per_node):
            has |= _cells(before, rank)
            wants |= _cells(after, rank)
        missing.append(len(wants - has) / CELLS**3)
    cost = reshard_cost(before, after, state_bytes=1e12, ranks_per_node=per_node, node_bytes_per_s=1e11)
    assert cost.total_bytes == pytest.approx(sum(missing) * 1e12, abs=1.0)
    assert cost.busiest_node_bytes == pytest.approx(max(missing) * 1e12, abs=1.0)
    assert cost.time_s == pytest.approx(max(missing) * 10, abs=1e-9)


def test_through_storage() -> None:
    assert through_storage_s(1e12, 1e9, 2e9) == pytest.approx(1500.0)
