"""Measured links of a cluster: pairs and matrices, the slower direction, and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.frontend.clusters import parse_cluster
from planner.ir.cluster import Cluster


def cluster(*entries: dict[str, Any]) -> Cluster:
    described = {"groups": [{"name": "a", "device": "h100", "nodes": 3}], "measured_links": list(entries)}
    return parse_cluster(described, source=None, diagnostics=Diagnostics())


def test_pairs_and_matrices_become_links_and_later_ones_count() -> None:
    matrix = [[None, "20GB/s", "30GB/s"], ["10GB/s", None, None], [None, None, None]]
    found = cluster(
        {"nodes": ["a-0", "a-1", "a-2"], "matrix": matrix}, {"nodes": ["a-2", "a-0"], "bandwidth": "5GB/s"}
    )
    assert [(link.first, link.second, link.bandwidth_bytes_per_s) for link in found.measured] == [
        ("a-0", "a-1", 10e9),
        ("a-0", "a-2", 5e9),
    ]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"nodes": ["a-0", "a-7"], "bandwidth": "1GB/s"}, "a-7"),
        ({"nodes": ["a-0", "a-0"], "bandwidth": "1GB/s"}, "twice"),
        ({"nodes": ["a-0", "a-1"]}, "matrix"),
        ({"nodes": ["a-0", "a-1"], "matrix": [["1GB/s"]]}, "2 rows of 2 columns"),
        ({"nodes": ["a-0", "a-1"], "bandwidth": "0GB/s"}, "more than 0"),
    ],
)
def test_what_is_wrong_is_said(entry: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        cluster(entry)
