"""Replicas find their slots where there are slots for all, also those that have to spread over nodes."""

from __future__ import annotations

import random

import pytest

from planner import plan
from planner.pipeline import Run, read
from planner.search.fleet_place import Item, place_fleet
from planner.search.fleet_room import Room, rooms_of
from tests.fleet_cases import spec, stage


def _room(num_nodes: int) -> Room:
    case = read({**spec(stage("s", 1.0, h100=1.0)), "cluster": f"{num_nodes}x8xh100@ib400"}, Run())
    return rooms_of(case.cluster.groups, case.payload)[0]


def _items(pool: str, sizes: list[int], *, spread: bool = False) -> list[Item]:
    return [
        Item(
            pool=pool,
            replica=k,
            model=ord(pool[0]),
            role="aggregated",
            group=0,
            units=(size,),
            num_devices=size,
            spread=(8, 1) if spread else None,
        )
        for k, size in enumerate(sizes)
    ]


def test_replicas_that_spread_are_not_crowded_out_by_wider_ones() -> None:
    items = _items("a", [1, 1], spread=True) + _items("b", [1, 1], spread=True) + _items("c", [2] * 6)
    seats = place_fleet(items, [_room(2)])
    assert seats is not None
    for pool in ("a", "b"):
        nodes = {seat.devices[0].split("/")[0] for seat in seats if seat.pool == pool}
        assert len(nodes) == 2
    used = [device for seat in seats for device in seat.devices]
    assert len(used) == len(set(used)) == 16


@pytest.mark.parametrize("seed", range(20))
def test_full_nodes_with_one_replica_of_each_spread_pool_are_packed(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(2, 4)
    pools = [[rng.choice([1, 2])] * count for _ in range(rng.randint(1, 2))]
    left = 8 - sum(sizes[0] for sizes in pools)
    wide = [2] * (left // 2 * count)
    items = [item for k, sizes in enumerate(pools) for item in _items(f"{'ab'[k]}", sizes, spread=True)]
    assert place_fleet([*items, *_items("w", wide)], [_room(count)]) is not None


def test_a_warm_model_that_survives_a_node_leaves_the_rest_to_others() -> None:
    chat = {
        "name": "chat",
        "model": "qwen2.5-14b",
        "workload": {"input_tokens": 636, "output_tokens": 342},
        "formats": {"weights": ["fp8"]},
        "slo": {"ttft": "14.9s"},
        "availability": {"lose": 1, "of": "node"},
        "min_replicas": 1,
        "rate": "8.18/s",
    }
    ranker = {"name": "ranker", "rate": "1388/s", "stated": {"mi300x": {"devices": 2, "rate": "273/s"}}}
    found = plan(
        {"kind": "fleet", "cluster": "2x8xmi300x", "models": [chat, ranker], "objective": "max_goodput"}
    )
    assert found.status == "optimal"
    assert found.objective.value == pytest.approx(8.18 * 342 + 1388)
