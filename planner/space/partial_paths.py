"""Partial paths: every micro-batch skips some stages, each stage being visited as often as it can stand.

Source of the idea: Blagoev et al., SkipPipe (2025), where micro-batches take paths of a given length
through a pipeline of uneven nodes. Here the number of visits of each stage is exact (it minimises the
work of the busiest stage) and the schedule is then synthesised for these paths.
"""

from __future__ import annotations

import heapq

from planner.errors import InputError


def partial_paths(
    stage_work_s: tuple[float, ...], num_microbatches: int, path_length: int
) -> tuple[tuple[int, ...], ...]:
    """Return for each micro-batch the stages that it visits: `path_length` of them, the ends among them.

    The first and the last stage hold the embedding and the head and are always visited. Visits of the
    others are handed out one by one to the stage that then has least work, which minimises the largest;
    dealing each stage's visits to micro-batches in turn gives every one the same number.

    Raises
    ------
    InputError
        If there are no paths of that length.
    """
    count = len(stage_work_s)
    if not min(2, count) <= path_length <= count:
        raise InputError(
            "a path visits the first and the last stage and each stage at most once",
            key="--path-length",
            value=path_length,
            allowed=f"{min(2, count)} to {count}",
        )
    if count < 3:
        return (tuple(range(count)),) * num_microbatches
    visits = dict.fromkeys(range(1, count - 1), 0)
    heap = [(stage_work_s[s], s) for s in visits]
    heapq.heapify(heap)
    for _ in range(num_microbatches * (path_length - 2)):
        _, stage = heapq.heappop(heap)
        visits[stage] += 1
        if visits[stage] < num_microbatches:
            heapq.heappush(heap, ((visits[stage] + 1) * stage_work_s[stage], stage))
    dealt = [stage for stage, number in visits.items() for _ in range(number)]
    return tuple((0, *sorted(dealt[m::num_microbatches]), count - 1) for m in range(num_microbatches))
