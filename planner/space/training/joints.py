"""Sends between stages on different node groups."""

from __future__ import annotations

import numpy as np

from cost_models.work import Collective, Span
from planner.ir.cluster import Cluster
from planner.space.spans import link_spec
from planner.space.training.evaluate import TrainingEvaluator
from planner.space.training.plans import PlanArrays


def joint_hop_s(
    cluster: Cluster,
    evaluators: tuple[TrainingEvaluator, TrainingEvaluator],
    plans: tuple[PlanArrays, PlanArrays],
) -> float:
    """Return one send over the link between two groups, seconds.

    All ranks of the stages send at once, each its share; where the link is one for all, the whole micro-batch
    of every replica goes over it.
    """
    first, shape = evaluators[0], plans[0]
    joint = cluster.between(first.group.name, evaluators[1].group.name)
    num_bytes = max(float(e.sent_bytes(plan)[0]) for e, plan in zip(evaluators, plans, strict=True))
    span = Span(ranks_per_level=(2,), links=(link_spec(joint.link),))
    work = Collective(op="p2p", num_bytes=np.array([num_bytes]), span=span)
    alone = float(first.price_s(work)[0])
    if joint.capacity_bytes_per_s is None:
        return alone
    senders = min(int(plan.tp[0]) for plan in plans) * int(shape.cp[0] * shape.dp[0])
    together = num_bytes * senders / joint.capacity_bytes_per_s
    return max(alone, together + joint.link.latency_s)
