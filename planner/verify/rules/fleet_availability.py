"""A fault-tolerant model carries its traffic even after the worst loss of the domains it must survive.

Every failure domain is taken out in turn: what its replicas carry, as the plan states it, is lost. The
domains that take most from a half (whole replicas, prefill or decode) are lost together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FaultTolerance, FleetModel
from planner.verify.fleet import cells_of, domain_devices, payload_of, power_domains_of, served_rps
from planner.verify.placing import device_of
from planner.verify.report import Violation
from planner.verify.rule import FLEET, Case, Rule

_ARITHMETIC = 1e-4
_HALVES = ("aggregated", "prefill", "decode", "stage")
_Cell = tuple[str, int]


def _check(case: Case) -> Iterator[Violation]:
    for model in payload_of(case).models:
        if model.tolerance is not None:
            for role in _HALVES:
                yield from _half(case, model, model.tolerance, role)


def _half(case: Case, model: FleetModel, tolerance: FaultTolerance, role: str) -> Iterator[Violation]:
    pools = {p.name: p for p in case.plan.pools if p.model == model.name and p.role == role}
    if not pools:
        return
    groups = {group.name: group for group in case.problem.cluster.groups}
    seated: Counter[_Cell] = Counter()
    taken: dict[_Cell, float] = {}
    for seat in case.plan.placement:
        if seat.pool not in pools:
            continue
        group = groups[pools[seat.pool].node_group]
        cells = _cells(case, tolerance, seat.devices, group)
        if cells is None:
            yield Violation(message=f"group {group.name} does not say what its {tolerance.domain}s are")
            return
        each = _loss(case, seat.pool, pools[seat.pool].replicas, _capacity(case, seat.pool))
        for cell in cells:
            seated[cell] += 1
            taken[cell] = taken.get(cell, 0.0) + each
    yield from _crowded(model, tolerance, role, seated)
    capacity = sum(_capacity(case, name) for name in pools)
    worst = sum(sorted(taken.values(), reverse=True)[: tolerance.num_lost])
    served = served_rps(case, model.name)
    if capacity - worst < served - _ARITHMETIC * max(served, capacity):
        yield Violation(
            message=f"{model.name}: with {tolerance.num_lost} {tolerance.domain}(s) lost {role} carries "
            f"{capacity - worst:.5g} requests/s of {served:.5g}",
            numbers=(("capacity", capacity), ("lost", worst), ("served", served)),
        )


def _cells(case: Case, tolerance: FaultTolerance, devices: list[str], group: NodeGroup) -> set[_Cell] | None:
    """Return the failure domains that a replica lies in; a node outside the shared ones is one by itself."""
    if tolerance.domain == "power" and payload_of(case).power_domains:
        known = power_domains_of(case)
        nodes = {device.node for text in devices if (device := device_of(text)) is not None}
        return {("", known[node]) if node in known else (node, 0) for node in nodes}
    size = domain_devices(group, tolerance.domain, payload_of(case))
    return None if size is None else cells_of(devices, group, size)


def _crowded(
    model: FleetModel, tolerance: FaultTolerance, role: str, seated: Mapping[_Cell, int]
) -> Iterator[Violation]:
    most = max(seated.values(), default=0)
    if most > tolerance.most_per_domain:
        yield Violation(
            message=f"{model.name}: {most} {role} replicas share a {tolerance.domain}, "
            f"at most {tolerance.most_per_domain} may"
        )


def _capacity(case: Case, pool: str) -> float:
    found = next(p for p in case.plan.pools if p.name == pool).predicted.get("capacity_rps")
    return 0.0 if found is None else found.value


def _loss(case: Case, pool: str, replicas: int, capacity: float) -> float:
    """Return what one lost replica takes: what the plan says, at least its share of the capacity."""
    queues = case.plan.details.get("queues")
    facts: object = cast("Mapping[str, Any]", queues).get(pool) if isinstance(queues, dict) else None
    stated: object = cast("Mapping[str, Any]", facts).get("loss_rps") if isinstance(facts, dict) else None
    own = capacity / max(1, replicas)
    return max(own, float(stated)) if isinstance(stated, int | float) else own


RULE = Rule(
    says="fault-tolerant models survive the losses that they must",
    check=_check,
    kinds=FLEET,
    requires=("ranks", "fleet-demand"),
)
