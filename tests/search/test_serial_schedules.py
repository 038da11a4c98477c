"""Serial schedules in batches, against tasks placed one by one."""

from __future__ import annotations

import numpy as np
import pytest

from planner.search.serial_schedules import SerialScheduler, Tasks, turned


def _tasks(seed: int, *, longest: int, num_resources: int) -> Tasks:
    generator = np.random.default_rng(seed)
    count = 14
    capacities = generator.integers(3, 9, num_resources)
    arcs = [
        (a, b, int(generator.integers(0, longest)))
        for a in range(count)
        for b in range(a + 1, count)
        if generator.random() < 0.12
    ]
    return Tasks(
        holds=generator.integers(0, longest + 1, count),
        demands=generator.integers(0, 4, (count, num_resources)),
        capacities=capacities,
        releases=np.where(generator.random(count) < 0.2, longest, 0),
        arcs=tuple(arcs),
    )


def _one_by_one(tasks: Tasks, order: list[int], horizon: int) -> list[int]:
    """Return the earliest starts in an order, slot by slot."""
    used = np.zeros((horizon + int(tasks.holds.max()) + 1, len(tasks.capacities)), dtype=np.int64)
    starts = [0] * tasks.num_tasks
    for t in order:
        begin = max([int(tasks.releases[t]), *(starts[a] + w for a, b, w in tasks.arcs if b == t)])
        hold = int(tasks.holds[t])
        while hold and (used[begin : begin + hold] + tasks.demands[t] > tasks.capacities).any():
            begin += 1
        used[begin : begin + hold] += tasks.demands[t]
        starts[t] = begin
    return starts


@pytest.mark.parametrize(("longest", "num_resources"), [(1, 1), (7, 4), (30, 2), (90, 20), (200, 3)])
def test_every_row_is_what_placing_one_by_one_gives(longest: int, num_resources: int) -> None:
    for seed in range(6):
        tasks = _tasks(seed, longest=longest, num_resources=num_resources)
        horizon = int(tasks.holds.sum()) + 20 * longest
        scheduler = SerialScheduler(tasks, horizon)
        orders = scheduler.orders(np.random.default_rng(seed).random((9, tasks.num_tasks)))
        found = scheduler.starts(orders)
        for order, starts in zip(orders.tolist(), found.tolist(), strict=True):
            assert starts == _one_by_one(tasks, order, horizon)


def test_orders_keep_what_waits_behind_what_it_waits_for() -> None:
    tasks = _tasks(3, longest=5, num_resources=2)
    scheduler = SerialScheduler(tasks, 200)
    orders = scheduler.orders(np.random.default_rng(0).random((50, tasks.num_tasks)))
    place = np.argsort(orders, axis=1)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(tasks.num_tasks), (50, 1)))
    for before, after, _ in tasks.arcs:
        assert (place[:, before] < place[:, after]).all()


def test_what_does_not_fit_any_more_starts_at_the_horizon() -> None:
    # two tasks of 4 on one unit: the second would start at 4, past a horizon of 3
    tasks = Tasks(
        holds=np.array([4, 4]),
        demands=np.array([[1], [1]]),
        capacities=np.array([1]),
        releases=np.array([0, 0]),
        arcs=(),
    )
    assert SerialScheduler(tasks, 3).starts(np.array([[0, 1], [1, 0]])).tolist() == [[0, 3], [3, 0]]
    assert SerialScheduler(tasks, 4).starts(np.array([[0, 1]])).tolist() == [[0, 4]]


def test_turned_time_keeps_waits() -> None:
    # b may start 2 after a starts, a holds 5, b holds 4: backwards a starts 1 after b at the least
    tasks = Tasks(
        holds=np.array([5, 4]),
        demands=np.zeros((2, 1), dtype=np.int64),
        capacities=np.array([1]),
        releases=np.array([3, 0]),
        arcs=((0, 1, 2),),
    )
    assert turned(tasks).arcs == ((1, 0, 1),)
    assert turned(tasks).releases.tolist() == [0, 0]
    # two turns give the arcs back
    assert turned(turned(tasks)).arcs == tasks.arcs
