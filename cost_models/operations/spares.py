"""Spare nodes: what a run loses while broken nodes are repaired, with spares that step in."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, lgamma, log
from typing import Literal

SparePolicy = Literal["wait", "shrink"]
_MOST_SPARES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePool:
    """The nodes of a run.

    Parameters
    ----------
    num_nodes
        Nodes that the run computes on.
    nodes_per_replica
        Nodes that leave together when one is missing and the run shrinks: those of one replica.
    node_mtbf_s
        Mean time between failures of one node that call for a repair.
    repair_s
        Mean time from failure until the node is back.
    """

    num_nodes: int
    nodes_per_replica: int
    node_mtbf_s: float
    repair_s: float

    @property
    def mean_broken(self) -> float:
        """Mean number of nodes in repair while the run goes on at full size."""
        return self.num_nodes * self.repair_s / self.node_mtbf_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SpareChoice:
    """So many spares under a policy, and the part of full speed that the run then has on average."""

    policy: SparePolicy
    num_spares: int
    speed: float


def spare_speed(pool: NodePool, num_spares: int, policy: SparePolicy) -> float:
    """Return the mean speed of the run as a part of its speed with all nodes.

    The number of nodes in repair is Poisson with mean N x repair / MTBF. ``wait``: the run stands still
    while more are broken than there are spares. ``shrink``: it goes on without the replicas that lack a node.

    Source: M/G/infinity queue (Palm's theorem): the number in service is Poisson whatever the law of repair.
    """
    num_replicas = pool.num_nodes // pool.nodes_per_replica
    mean = pool.mean_broken
    total, seen, broken = 0.0, 0.0, 0
    while broken <= num_spares + pool.num_nodes:
        chance = _poisson(broken, mean)
        missing = max(0, broken - num_spares)
        if missing == 0:
            total += chance
        elif policy == "shrink":
            total += chance * max(0.0, 1.0 - min(missing, num_replicas) / num_replicas)
        seen += chance
        if broken > mean and chance < 1e-15:
            break
        broken += 1
    return min(1.0, total)


def best_spares(pool: NodePool, policy: SparePolicy) -> SpareChoice:
    """Return the number of spares with the most progress per node paid for: speed / (nodes + spares)."""
    best = SpareChoice(policy=policy, num_spares=0, speed=spare_speed(pool, 0, policy))
    value = best.speed / pool.num_nodes
    most = min(_MOST_SPARES, ceil(pool.mean_broken + 12 * pool.mean_broken**0.5 + 12))
    for spares in range(1, most + 1):
        if 1.0 / (pool.num_nodes + spares) <= value:
            break
        speed = spare_speed(pool, spares, policy)
        if speed / (pool.num_nodes + spares) > value:
            best = SpareChoice(policy=policy, num_spares=spares, speed=speed)
            value = speed / (pool.num_nodes + spares)
    return best


def _poisson(count: int, mean: float) -> float:
    if mean <= 0.0:
        return 1.0 if count == 0 else 0.0
    return exp(count * log(mean) - mean - lgamma(count + 1.0))
