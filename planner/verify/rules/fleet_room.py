"""A fleet stays where it may be: allowed groups, replica sizes, no lost nodes, caps on power kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from planner.ir.cluster import NodeGroup
from planner.verify.fleet import domain_devices, payload_of, power_domains_of, unit_cost
from planner.verify.placing import device_of, position
from planner.verify.report import Violation
from planner.verify.rule import FLEET, Case, Rule

_TOLERANCE = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    payload = payload_of(case)
    models = {model.name: model for model in payload.models}
    for pool in case.plan.pools:
        model = models.get(pool.model)
        if model is None:
            continue
        if not model.allows(pool.role, pool.node_group):
            yield Violation(message=f"pool {pool.name!r} may not stand on {pool.node_group}")
        s = pool.strategy
        size = s.tp * s.pp * s.attention_dp * s.cp
        if pool.role != "stage" and size > model.replica_devices:
            yield Violation(
                message=f"pool {pool.name!r}: replicas of {size} devices, at most {model.replica_devices}"
            )
    lost = set(payload.lost_nodes)
    for seat in case.plan.placement:
        for text in seat.devices:
            device = device_of(text)
            if device is not None and device.node in lost:
                yield Violation(message=f"{seat.pool}[{seat.replica}] sits on {device.node}, which is lost")
                break
    yield from _caps(case)
    yield from _shared(case)


def _caps(case: Case) -> Iterator[Violation]:
    payload = payload_of(case)
    group_of = {pool.name: pool.node_group for pool in case.plan.pools}
    for domain, cap in (("rack", payload.rack_cap_w), ("power", payload.power_domain_cap_w)):
        if cap is None:
            continue
        for group in case.problem.cluster.groups:
            size = domain_devices(group, domain, payload)
            if size is None:
                yield Violation(message=f"group {group.name} does not say what its {domain}s are")
                continue
            used = _used(case, group, size, group_of)
            watts = max(used.values(), default=0) * unit_cost(group, "min_power")
            if watts > cap * (1 + _TOLERANCE):
                yield Violation(
                    message=f"a {domain} of {group.name} takes {watts:.0f} W, its cap is {cap:.0f}",
                    numbers=(("used", watts), ("cap", cap)),
                )


def _shared(case: Case) -> Iterator[Violation]:
    """Yield the power domains over several groups that take more than their cap."""
    caps = [s.cap_w for s in payload_of(case).power_domains for _ in range(s.count)]
    domains = power_domains_of(case)
    groups = {group.name: group for group in case.problem.cluster.groups}
    group_of = {pool.name: pool.node_group for pool in case.plan.pools}
    watts: Counter[int] = Counter()
    for seat in case.plan.placement:
        each = unit_cost(groups[group_of[seat.pool]], "min_power") if seat.pool in group_of else 0.0
        for text in seat.devices:
            device = device_of(text)
            if device is not None and device.node in domains:
                watts[domains[device.node]] += each  # pyright: ignore[reportArgumentType] - watts are no whole numbers
    for number, taken in sorted(watts.items()):
        cap = caps[number]
        if cap is not None and taken > cap * (1 + _TOLERANCE):
            yield Violation(
                message=f"power domain {number} takes {taken:.0f} W, its cap is {cap:.0f}",
                numbers=(("used", float(taken)), ("cap", cap)),
            )


def _used(case: Case, group: NodeGroup, size: int, group_of: dict[str, str]) -> Counter[int]:
    used: Counter[int] = Counter()
    for seat in case.plan.placement:
        if group_of.get(seat.pool) == group.name:
            placed = [device_of(text) for text in seat.devices]
            used.update(position(device, group) // size for device in placed if device is not None)
    return used


RULE = Rule(
    says="every replica stands where it may, within the caps on power",
    check=_check,
    kinds=FLEET,
    requires=("inventory", "ranks"),
)
