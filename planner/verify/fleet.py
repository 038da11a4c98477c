"""The checker's view of a fleet: in which failure domains devices lie, what the plan says of its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetProblem, TrafficLevel
from planner.verify.placing import device_of, position
from planner.verify.rule import Case

ALWAYS = TrafficLevel(name="always", factor=1.0, hours=24.0)


def payload_of(case: Case) -> FleetProblem:
    """Return the payload of a fleet problem."""
    return cast("FleetProblem", case.problem.payload)


def busiest(payload: FleetProblem) -> TrafficLevel:
    """Return the level that the pools of a plan are for: the first of most traffic."""
    return max(payload.levels or (ALWAYS,), key=lambda level: level.factor)


def domain_devices(group: NodeGroup, domain: str, payload: FleetProblem) -> int | None:
    """Return the devices of one failure domain of a group, None where the inventory does not say."""
    if domain == "node":
        return group.devices_per_node
    if domain == "power" and payload.power_domain_nodes:
        return payload.power_domain_nodes * group.devices_per_node
    sizes = [level.num_devices for level in group.levels if level.name == domain]
    return max(sizes[0], group.devices_per_node) if sizes else None


def cells_of(devices: list[str], group: NodeGroup, size: int) -> set[tuple[str, int]]:
    """Return the domains of `size` devices in which devices lie, as (group, number)."""
    found: set[tuple[str, int]] = set()
    for text in devices:
        device = device_of(text)
        if device is not None:
            found.add((group.name, position(device, group) // size))
    return found


def power_domains_of(case: Case) -> dict[str, int]:
    """Return the number of the power domain of every node that is in one of those that groups share."""
    groups = {group.name: group for group in case.problem.cluster.groups}
    dealt: dict[str, int] = dict.fromkeys(groups, 0)
    found: dict[str, int] = {}
    number = 0
    for stated in payload_of(case).power_domains:
        for _ in range(stated.count):
            for name, nodes in stated.nodes:
                for _ in range(nodes):
                    found[groups[name].node_name(dealt[name])] = number
                    dealt[name] += 1
            number += 1
    return found


def model_facts(case: Case, name: str) -> Mapping[str, Any]:
    """Return what the plan states about a model, empty if it states nothing."""
    models = case.plan.details.get("models")
    facts = cast("Mapping[str, Any]", models).get(name) if isinstance(models, dict) else None
    return cast("Mapping[str, Any]", facts) if isinstance(facts, dict) else {}


def served_rps(case: Case, name: str) -> float:
    """Return the rate at which the plan says it serves a model."""
    value = model_facts(case, name).get("served_rps")
    return float(value) if isinstance(value, int | float) else 0.0


def unit_cost(group: NodeGroup, goal: str) -> float:
    """Return what one device of a group adds to a goal that is minimised."""
    if goal == "min_cost":
        return group.usd_per_device_hour or 0.0
    if goal == "min_power":
        return group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node
    return 1.0
