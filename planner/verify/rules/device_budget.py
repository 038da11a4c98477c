"""The plan uses no more devices than the budget and each group allow."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    group_of = {pool.name: pool.node_group for pool in case.plan.pools}
    used: dict[str, int] = {}
    for replica in case.plan.placement:
        group = group_of.get(replica.pool, "")
        used[group] = used.get(group, 0) + len(replica.devices)
    for group in case.problem.cluster.groups:
        if used.get(group.name, 0) > group.num_devices:
            yield Violation(
                message=f"{used[group.name]} devices of {group.name}, it has {group.num_devices}",
                numbers=(("used", used[group.name]), ("there", group.num_devices)),
            )
    limit, total = case.problem.budget.num_devices, sum(used.values())
    if limit is not None and total > limit:
        yield Violation(
            message=f"{total} devices, the budget is {limit}", numbers=(("used", total), ("budget", limit))
        )


RULE = Rule(says="the plan keeps to the budget of devices", check=_check, requires=("well-formed",))
