"""Every replica of every pool is placed once, on as many devices as its degrees ask for."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import FLEET, SERVING, Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    for pool in case.plan.pools:
        placed = [r for r in case.plan.placement if r.pool == pool.name]
        numbers = sorted(r.replica for r in placed)
        if len(numbers) != pool.replicas or numbers != list(range(len(numbers))):
            yield Violation(message=f"pool {pool.name!r} has {pool.replicas} replicas, placed are {numbers}")
        s = pool.strategy
        size = s.tp * s.pp * s.attention_dp * s.cp
        for replica in placed:
            if len(replica.devices) != size:
                found = len(replica.devices)
                yield Violation(
                    message=f"{pool.name}[{replica.replica}] has {found} devices for {size} ranks"
                )


RULE = Rule(
    says="every replica is placed on as many devices as it has ranks",
    check=_check,
    kinds=SERVING | FLEET,
    requires=("inventory",),
)
