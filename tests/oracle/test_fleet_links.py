"""Replicas on measured links against brute force: every way to seat them on the nodes."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.diagnostics import Diagnostics
from planner.frontend.clusters import parse_cluster
from planner.ir.cluster import Cluster
from planner.ir.fleet import FleetProblem
from planner.search.fleet_links import Links, along_links, slowest_pair
from planner.search.fleet_place import Item, place_fleet
from planner.search.fleet_room import rooms_of

NODES = ("big-0", "big-1", "big-2", "big-3", "fast-0", "fast-1", "fast-2")


def cluster(matrix: list[list[float | None]]) -> Cluster:
    return parse_cluster(
        {
            "groups": [
                {"name": "big", "device": "h100", "nodes": 4, "network": "ib400"},
                {"name": "fast", "device": "h200", "nodes": 3, "network": "ib400"},
            ],
            "between_groups": "ib400",
            "measured_links": [
                {"nodes": list(NODES), "matrix": [[f"{x}GB/s" if x else None for x in row] for row in matrix]}
            ],
        },
        source=None,
        diagnostics=Diagnostics(),
    )


def item(model: int, role: str, group: int, replica: int) -> Item:
    return Item(
        pool=f"m{model}-{role}",
        replica=replica,
        model=model,
        role=role,
        group=group,
        units=(8,),
        num_devices=8,
    )


ITEMS = [
    item(0, "prefill", 0, 0),
    item(0, "prefill", 0, 1),
    item(0, "decode", 1, 0),
    item(1, "prefill", 0, 0),
    item(1, "decode", 1, 0),
]
RATES = {0: 3.0, 1: 5.0}


def seconds(nodes: tuple[str, ...], links: Links) -> float:
    first = sum(3.0 / 2 / links.bandwidth(nodes[p], nodes[2]) for p in (0, 1))
    return first + 5.0 / links.bandwidth(nodes[3], nodes[4])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([1.0, 4.0, 9.0, 25.0, 50.0, None]), min_size=21, max_size=21))
def test_seats_are_as_good_as_the_best_of_all(values: list[float | None]) -> None:
    drawn = iter(values)
    matrix: list[list[float | None]] = [[None] * 7 for _ in range(7)]
    for row in range(7):
        for column in range(row + 1, 7):
            matrix[row][column] = matrix[column][row] = next(drawn)
    place = cluster(matrix)
    rooms = rooms_of(place.groups, FleetProblem(models=()))
    given_seats = place_fleet(ITEMS, rooms)
    assert given_seats is not None
    found = along_links(ITEMS, given_seats, rooms, place, RATES)
    links = Links(cluster=place)
    nodes = tuple(seat.devices[0].rpartition("/")[0] for seat in found)
    assert len({device for seat in found for device in seat.devices}) == 8 * len(ITEMS)
    best = min(
        seconds((p[0], p[1], d[0], p[2], d[1]), links)
        for p in permutations(NODES[:4], 3)
        for d in permutations(NODES[4:], 2)
    )
    before = seconds(tuple(seat.devices[0].rpartition("/")[0] for seat in given_seats), links)
    assert seconds(nodes, links) == pytest.approx(best, rel=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("planner.search.fleet_links.MOST_PRODUCTS", 0)
        stepwise = along_links(ITEMS, given_seats, rooms, place, RATES)
    steps = tuple(seat.devices[0].rpartition("/")[0] for seat in stepwise)
    assert best * (1 - 1e-9) <= seconds(steps, links) <= before * (1 + 1e-9)
    slowest = slowest_pair(ITEMS, found, links, 1)
    assert slowest is not None
    assert slowest.bandwidth_bytes_per_s == links.bandwidth(nodes[3], nodes[4])


def test_a_measured_link_counts_in_its_slower_direction_and_others_as_described() -> None:
    matrix: list[list[float | None]] = [[None] * 7 for _ in range(7)]
    matrix[0][4], matrix[4][0] = 20.0, 10.0
    links = Links(cluster=cluster(matrix))
    assert links.bandwidth("big-0", "fast-0") == pytest.approx(10e9)
    plain = links.bandwidth("big-1", "fast-0")
    assert plain == links.bandwidth("big-0", "big-1") > 10e9
    assert links.bandwidth("big-0", "big-0") > plain
