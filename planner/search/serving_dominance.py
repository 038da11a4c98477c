"""Drops prefill shapes that another shape of the same size beats in everything.

A prefill pool is decided by how long a prompt holds it (mean and variation), by how long each prompt
takes alone, and by how fast its cache leaves. Waiting rises with the first two, every latency with the
third, transfers fall with the lanes: a shape that is no better in any of them carries no more at any
replica count and under any limit. Shapes are compared within what questions can tell apart (group,
engine, formats, with or without stages), so that runners-up lose nothing either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.search.serving_catalogue import Offer


def undominated(offers: Sequence[Offer]) -> list[Offer]:
    """Return the offers without dominated prefill shapes, in their order; of equals the first stays."""
    classes: dict[tuple[object, ...], list[int]] = {}
    for index, offer in enumerate(offers):
        if offer.role == "prefill":
            classes.setdefault(_class(offer), []).append(index)
    dropped: set[int] = set()
    for members in classes.values():
        dropped.update(_dominated([(index, offers[index]) for index in members]))
    return [offer for index, offer in enumerate(offers) if index not in dropped]


def _class(offer: Offer) -> tuple[object, ...]:
    shape = offer.replica.shape
    return (
        offer.group,
        shape.engine,
        shape.weight_fmt,
        shape.kv_fmt,
        shape.offload,
        shape.strategy.pp > 1,
        offer.replica.num_devices,
        offer.replica.curve.num_ranks,
    )


def _dominated(members: list[tuple[int, Offer]]) -> list[int]:
    """Return the indices of members that another member is at least as good as everywhere."""
    curves = [offer.replica.curve for _, offer in members]
    costs = np.array(
        [
            [
                curve.service_s[0],
                curve.service_scv[0],
                -curve.rate_rps[-1],
                -offer.cache_lanes,
                *curve.own_ttft_s[0],
            ]
            for curve, (_, offer) in zip(curves, members, strict=True)
        ]
    )
    dropped: list[int] = []
    alive = np.ones(len(members), dtype=np.bool_)
    for row, (index, _) in enumerate(members):
        better = (costs <= costs[row]).all(axis=1) & alive
        better[row] = False
        if better.any():
            alive[row] = False
            dropped.append(index)
    return dropped
