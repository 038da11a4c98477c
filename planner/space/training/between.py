"""What replicas on several node groups exchange: an all-reduce round a ring of groups.

Every device of a group sends its share of the parameters to the next group, whatever the shapes on both
sides: what is reduced inside a group is spread over all its devices first, so that all links are used.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

import numpy as np

from cost_models.operations.outer_loops import OUTER_PASS_BYTES, ring_all_reduce_s
from cost_models.work import Collective, Span, Stream
from planner.ir.cluster import Cluster
from planner.space.spans import link_spec
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import PlanArrays

Sites = Sequence[tuple[TrainingEvaluator, int]]
"""Groups, by what prices them, with the devices that take part."""


def exchange_s(cluster: Cluster, sites: Sites, num_bytes: float) -> float:
    """Return an all-reduce of `num_bytes` over groups, seconds, in the order round the ring that is fastest.

    Raises
    ------
    KeyError
        If nothing joins two of the groups.
    """
    num = len(sites)
    if num < 2:
        return 0.0
    passes = np.zeros((num, num))
    for i in range(num):
        for j in range(i):
            passes[i, j] = passes[j, i] = _pass_s(cluster, (sites[i], sites[j]), num_bytes / num)
    slowest = min(
        max(float(passes[a, b]) for a, b in zip((0, *order), (*order, 0), strict=True))
        for order in permutations(range(1, num))
    )
    return ring_all_reduce_s(slowest, num)


def _pass_s(
    cluster: Cluster,
    pair: tuple[tuple[TrainingEvaluator, int], tuple[TrainingEvaluator, int]],
    num_bytes: float,
) -> float:
    """Return the time in which one group sends so many bytes to another."""
    (first, own), (second, other) = pair
    joint = cluster.between(first.group.name, second.group.name)
    span = Span(ranks_per_level=(2,), links=(link_spec(joint.link),))
    share = np.array([num_bytes / min(own, other)])
    alone = float(first.price_s(Collective(op="p2p", num_bytes=share, span=span))[0])
    if joint.capacity_bytes_per_s is None:
        return alone
    return max(alone, num_bytes / joint.capacity_bytes_per_s + joint.link.latency_s)


def outer_update_s(evaluator: TrainingEvaluator, plan: PlanArrays, fmt: str) -> float:
    """Return the outer optimizer over the states of the fullest device of one plan, seconds."""
    memory = evaluator.evaluate(plan, fmt).memory[0]
    if memory is None:
        raise ValueError("a plan that is priced alone states its memory")
    return pass_s(evaluator, float(memory.optimizer.max()) / evaluator.software.optimizer_bytes)


def pass_s(evaluator: TrainingEvaluator, params: float) -> float:
    """Return the outer optimizer over so many parameters of one device, seconds."""
    work = Stream(num_bytes=np.array([params * OUTER_PASS_BYTES]), num_kernels=8.0)
    return float(evaluator.price_s(work)[0])
