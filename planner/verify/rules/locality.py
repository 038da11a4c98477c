"""No tensor or expert group straddles more domains or nodes than its size makes necessary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from planner.ir.cluster import NodeGroup
from planner.plan.schema import Pool, Replica
from planner.verify.placing import device_of, position
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    groups = {group.name: group for group in case.problem.cluster.groups}
    pools = {pool.name: pool for pool in case.plan.pools}
    for replica in case.plan.placement:
        pool = pools[replica.pool]
        yield from _replica(pool, replica, groups[pool.node_group])


def _replica(pool: Pool, replica: Replica, group: NodeGroup) -> Iterator[Violation]:
    placed = [device_of(text) for text in replica.devices]
    at = [position(device, group) for device in placed if device is not None]
    tp = pool.strategy.tp
    for start in range(0, len(at), tp):
        used = num_cells(at[start : start + tp], group.domain_size)
        needed = -(-tp // group.domain_size)
        if used > needed:
            yield Violation(
                message=f"{pool.name}[{replica.replica}]: tensor ranks from {start} lie in {used} scale-up "
                f"domains, {needed} would do",
                numbers=(("domains", used), ("needed", needed)),
            )


def num_cells(positions: Sequence[int], size: int) -> int:
    """Return how many cells of `size` consecutive devices the positions touch."""
    return len({at // size for at in positions})


RULE = Rule(
    says="tensor groups lie in as few scale-up domains as they need",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("ranks",),
)
