"""Pools stand on node groups of the cluster, and every placed device exists and is used once."""

from __future__ import annotations

from collections.abc import Iterator

from planner.ir.cluster import NodeGroup
from planner.verify.placing import device_of
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    groups = {group.name: group for group in case.problem.cluster.groups}
    pools = {pool.name: pool for pool in case.plan.pools}
    for pool in case.plan.pools:
        if pool.node_group not in groups:
            yield Violation(message=f"pool {pool.name!r} stands on no group of the cluster")
        elif groups[pool.node_group].device.name != pool.device:
            device = groups[pool.node_group].device.name
            yield Violation(message=f"pool {pool.name!r} claims {pool.device}, its group has {device}")
    used: dict[str, str] = {}
    nodes: dict[str, set[str]] = {}
    for replica in case.plan.placement:
        where = f"{replica.pool}[{replica.replica}]"
        group = groups.get(pools[replica.pool].node_group) if replica.pool in pools else None
        if group is None:
            yield Violation(message=f"{where} is placed but belongs to no pool on the cluster")
            continue
        for text in replica.devices:
            if text in used:
                yield Violation(message=f"{text} is used by {used[text]} and by {where}")
            used[text] = where
            yield from _device(text, group, nodes.setdefault(group.name, set()))
    for group in case.problem.cluster.groups:
        if len(nodes.get(group.name, ())) > group.num_nodes:
            yield Violation(message=f"group {group.name} has only {group.num_nodes} nodes")


def _device(text: str, group: NodeGroup, seen: set[str]) -> Iterator[Violation]:
    device = device_of(text)
    if device is None:
        yield Violation(message=f"{text!r} names no device")
        return
    seen.add(device.node)
    if device.index >= group.devices_per_node:
        yield Violation(message=f"{text}: a node of {group.name} has {group.devices_per_node} devices")
    if group.node_names and device.node not in group.node_names:
        yield Violation(message=f"{text}: {group.name} has no such node")


RULE = Rule(says="every placed device exists and is used once", check=_check, requires=("well-formed",))
