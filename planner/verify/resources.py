"""What the placed devices of a plan cost and draw."""

from __future__ import annotations

from planner.ir.cluster import NodeGroup
from planner.verify.rule import Case


def device_power_w(group: NodeGroup) -> float:
    """Return the power provisioned for one device: its rating and its share of the node's overhead."""
    return group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node


def devices_by_group(case: Case) -> list[tuple[NodeGroup, int]]:
    """Return how many devices of each group are placed."""
    group_of = {pool.name: pool.node_group for pool in case.plan.pools}
    counts = {group.name: 0 for group in case.problem.cluster.groups}
    for replica in case.plan.placement:
        counts[group_of[replica.pool]] += len(replica.devices)
    return [(group, counts[group.name]) for group in case.problem.cluster.groups]


def num_devices(case: Case) -> int:
    """Return the devices in use."""
    return sum(count for _, count in devices_by_group(case))


def power_w(case: Case) -> float:
    """Return the power provisioned for all devices in use, watts."""
    return sum(device_power_w(group) * count for group, count in devices_by_group(case))


def usd_per_hour(case: Case) -> float | None:
    """Return the price of all devices in use, None if one of them has no price."""
    total = 0.0
    for group, count in devices_by_group(case):
        if count and group.usd_per_device_hour is None:
            return None
        total += (group.usd_per_device_hour or 0.0) * count
    return total
