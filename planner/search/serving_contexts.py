"""The contexts in which prefill and decode are paired: link, lanes, cache and the split of the deadline."""

from __future__ import annotations

from itertools import product

import numpy as np

from planner.ir.cluster import Cluster
from planner.search.serving_catalogue import Catalogue
from planner.search.serving_pools import Context
from planner.search.serving_question import Question
from planner.space.spans import link_spec

NUM_DEADLINE_SPLITS = 12
"""Steps into which the time per decode step is cut when an end-to-end limit has to be shared."""


def inner_contexts(catalogue: Catalogue, group: int, question: Question) -> tuple[Context, ...]:
    """Return the contexts of pairs inside one group.

    A pair that fits one scale-up domain moves its cache over that; any pair may use the network.
    """
    where = catalogue.groups[group]
    links = [(link_spec(where.levels[0].link), where.domain_size)]
    if where.num_devices > where.domain_size:
        outer = where.levels[min(1, len(where.levels) - 1)]
        links.append((link_spec(outer.link), where.num_devices))
    lanes = _lanes(catalogue, group)
    steps = _deadline_steps(catalogue, group, question)
    return tuple(
        Context(link=link, lanes=count, max_devices=limit, step_s=step, cache=cache)
        for (link, limit), count, step, cache in product(links, lanes, steps, catalogue.caches())
    )


def cross_contexts(catalogue: Catalogue, question: Question) -> tuple[Context, ...]:
    """Return the contexts of pairs whose pools lie on any groups: the cache crosses the link between.

    Any prefill may feed any decode, so it is priced over the slowest link between groups.
    """
    cluster: Cluster = catalogue.problem.cluster
    slowest = cluster.slowest_between()
    if slowest is None:
        return ()
    link = link_spec(slowest)
    groups = range(len(cluster.groups))
    lanes = sorted({count for group in groups for count in _lanes(catalogue, group)})
    steps = _deadline_steps(catalogue, None, question)
    return tuple(
        Context(link=link, lanes=count, max_devices=cluster.num_devices, step_s=step, cache=cache)
        for count, step, cache in product(lanes, steps, catalogue.caches())
    )


def _lanes(catalogue: Catalogue, group: int) -> tuple[int, ...]:
    """Return the lane classes of decode offers: powers of two, rounded down."""
    lanes = {
        1 << (offer.cache_lanes.bit_length() - 1)
        for offer in catalogue.offers
        if offer.role == "decode" and offer.group == group
    }
    return tuple(sorted(lanes))


def _deadline_steps(catalogue: Catalogue, group: int | None, question: Question) -> tuple[float, ...]:
    """Return the decode steps to reserve for under an end-to-end limit, from the fastest possible up.

    Without a group, the fastest of all groups is meant.
    """
    limits, mean_steps = question.limits, catalogue.requests.mean_steps
    if not np.isfinite(limits.e2e_s) or mean_steps <= 0.0:
        return (np.inf,)
    fastest = min(
        (
            float(offer.replica.curve.tpot_high_s[0])
            for offer in catalogue.offers
            if offer.role == "decode" and group in (None, offer.group)
        ),
        default=np.inf,
    )
    slowest = min(limits.tpot_s, limits.e2e_s / mean_steps)
    if not fastest < slowest:
        return (slowest,)
    return tuple(float(step) for step in np.geomspace(fastest, slowest, NUM_DEADLINE_SPLITS + 1)[1:])
