"""Layers to pipeline chunks: how many layers, and of which kinds, every stage holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


def chunk_sizes(num_layers: int, num_chunks: int, first_drop: int, last_drop: int) -> tuple[int, ...] | None:
    """Return the layers of every chunk in model order, or None where no such split exists.

    All chunks get the same number, the first and last `first_drop` and `last_drop` fewer; what does not
    divide goes one by one to the latest inner chunks (they hold the fewest activations).
    """
    padded = num_layers + first_drop + last_drop
    base, rest = divmod(padded, num_chunks)
    sizes = [base] * num_chunks
    inner = list(range(num_chunks - 2, 0, -1)) or list(range(num_chunks - 1, -1, -1))
    order = inner + [i for i in range(num_chunks - 1, -1, -1) if i not in inner]
    for i in order[:rest]:
        sizes[i] += 1
    sizes[0] -= first_drop
    sizes[-1] -= last_drop
    if min(sizes) < 0 or (num_chunks > 1 and min(sizes[1:-1], default=1) < 1):
        return None
    return tuple(sizes)


def stage_of_chunk(chunk: int, num_stages: int, *, folded: bool) -> int:
    """Return the stage of a chunk; where `folded`, every other round runs backwards over the stages."""
    turn, place = divmod(chunk, num_stages)
    return num_stages - 1 - place if folded and turn % 2 else place


@lru_cache(maxsize=4096)
def stage_counts(
    order: tuple[int, ...],
    num_stages: int,
    num_chunks: int,
    first_drop: int,
    last_drop: int,
    *,
    folded: bool = False,
) -> NDArray[np.int64] | None:
    """Return how many layers of each kind every stage holds.

    Parameters
    ----------
    order
        Kind of every layer, in model order.
    num_stages, num_chunks
        Pipeline stages, and chunks per stage; chunk c of the model sits on stage c mod num_stages.
    folded
        Every other round of chunks runs backwards over the stages (the V of ZB-V), so that the first and the
        last chunk of two rounds share a stage.

    Returns
    -------
    NDArray or None
        Shape [num_stages, num_kinds]; None where the split is impossible.
    """
    sizes = chunk_sizes(len(order), num_stages * num_chunks, first_drop, last_drop)
    if sizes is None:
        return None
    counts = np.zeros((num_stages, max(order) + 1), dtype=np.int64)
    start = 0
    for chunk, size in enumerate(sizes):
        stage = stage_of_chunk(chunk, num_stages, folded=folded)
        for kind in order[start : start + size]:
            counts[stage, kind] += 1
        start += size
    return counts


def _first_counts(
    order: tuple[int, ...], num_stages: int, num_chunks: int, drops: tuple[int, int], *, folded: bool
) -> NDArray[np.int64]:
    """Return how many layers of each kind are among the first r of their chunk, [r, stages, kinds].

    r = 0 stands for all layers.
    """
    sizes = chunk_sizes(len(order), num_stages * num_chunks, *drops) or ()
    largest = max(sizes)
    found = np.zeros((largest + 1, num_stages, max(order) + 1), dtype=np.int64)
    start = 0
    for chunk, size in enumerate(sizes):
        stage = stage_of_chunk(chunk, num_stages, folded=folded)
        for place, kind in enumerate(order[start : start + size], start=1):
            found[place:, stage, kind] += 1
            found[0, stage, kind] += 1
        start += size
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class StageClasses:
    """Stages that hold the same: one row per class, the first and the last stage always by themselves.

    `counts` are layers of each kind, [classes, kinds]; `first` is the first stage of the class (which holds
    the most activations of its class); `size` how many stages it has. `last` is the row that holds the head.
    `again[r]` are those among the first r layers of their chunk, [classes, kinds]; all of them for r = 0.
    """

    counts: NDArray[np.int64]
    again: NDArray[np.int64]
    first: NDArray[np.int64]
    size: NDArray[np.int64]
    num_stages: int
    last: int


@lru_cache(maxsize=65536)
def stage_classes(
    order: tuple[int, ...],
    num_stages: int,
    num_chunks: int,
    drops: tuple[int, int],
    *,
    every: bool = False,
    folded: bool = False,
) -> StageClasses | None:
    """Return the classes of stages of a split, first stages first; None where the split is impossible.

    With `every`, each stage is a class of its own; `folded` as in `stage_counts`.
    """
    counts = stage_counts(order, num_stages, num_chunks, *drops, folded=folded)
    if counts is None:
        return None
    again = _first_counts(order, num_stages, num_chunks, drops, folded=folded)
    stages = np.arange(num_stages)
    if every or num_stages <= 2:
        first = stages
        size = np.ones(num_stages, dtype=np.int64)
    else:
        ends = np.zeros(num_stages, dtype=np.int64)
        ends[0], ends[-1] = 1, 2
        keys = np.column_stack([ends, counts, again.transpose(1, 0, 2).reshape(num_stages, -1)])
        _, first, size = np.unique(keys, axis=0, return_index=True, return_counts=True)
        turn = np.argsort(first, kind="stable")
        first, size = first[turn], size[turn]
    return StageClasses(
        counts=counts[first],
        again=again[:, first],
        first=first.astype(np.int64),
        size=size.astype(np.int64),
        num_stages=num_stages,
        last=0 if folded and num_chunks % 2 == 0 else len(first) - 1,
    )
