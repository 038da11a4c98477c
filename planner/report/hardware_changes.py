"""Changes of the hardware and of the budget that are worth asking about, for problems of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.ir.cluster import Cluster, Level, Link, NodeGroup
from planner.report.explanation import AnyProblem, Variation
from planner.report.figures import figure


def lifted_budgets(problem: AnyProblem) -> Iterator[Variation]:
    """Yield the problem without each of its budgets."""
    for field, unit in (("num_devices", "devices"), ("usd_per_hour", "USD/h"), ("power_w", "W")):
        limit = getattr(problem.budget, field)
        if limit is not None:
            yield Variation(
                sort="limit",
                change=f"at most {figure(float(limit), unit)}",
                problem=replace(problem, budget=replace(problem.budget, **{field: None})),
            )


def more_devices(problem: AnyProblem) -> Iterator[Variation]:
    """Yield the problem with one more device in the budget, or with one more node of each kind."""
    if problem.budget.num_devices is not None:
        budget = replace(problem.budget, num_devices=problem.budget.num_devices + 1)
        yield Variation(
            sort="resource", change="one more device in the budget", problem=replace(problem, budget=budget)
        )
        return
    for index, group in enumerate(problem.cluster.groups):
        grown, what = _grown(group)
        before, after = problem.cluster.groups[:index], problem.cluster.groups[index + 1 :]
        groups = (*before, grown, *after)
        cluster = replace(problem.cluster, groups=groups)
        yield Variation(sort="resource", change=what, problem=replace(problem, cluster=cluster))


def _grown(group: NodeGroup) -> tuple[NodeGroup, str]:
    """Return the group with one more node where nodes are linked, else with one more device in its node."""
    if len(group.levels) > 1 or group.num_nodes > 1:
        names = (*group.node_names, f"{group.name}-one-more") if group.node_names else ()
        grown = replace(group, num_nodes=group.num_nodes + 1, node_names=names)
        levels = _widened(group.levels, grown.num_devices)
        what = f"one more node of {group.devices_per_node} {group.device.name}"
        return replace(grown, levels=levels), what
    count = group.devices_per_node + 1
    levels = tuple(replace(level, num_devices=max(level.num_devices, count)) for level in group.levels)
    return replace(group, devices_per_node=count, levels=levels), f"one more {group.device.name} in the node"


def twice_the_nodes(problem: AnyProblem) -> Iterator[Variation]:
    """Yield the problem with every group of nodes twice as large."""
    if problem.budget.num_devices is not None:
        return
    groups = tuple(
        replace(
            group,
            num_nodes=2 * group.num_nodes,
            node_names=(),
            levels=_widened(group.levels, 2 * group.num_devices),
        )
        for group in problem.cluster.groups
    )
    devices = sum(group.num_devices for group in groups)
    cluster = replace(problem.cluster, groups=groups)
    yield Variation(
        sort="resource",
        change=f"twice the nodes ({devices} devices)",
        problem=replace(problem, cluster=cluster),
    )


def _widened(levels: tuple[Level, ...], num_devices: int) -> tuple[Level, ...]:
    """Return the levels with the outermost wide enough for the grown group."""
    last = levels[-1]
    return (*levels[:-1], replace(last, num_devices=max(last.num_devices, num_devices)))


def faster_links(problem: AnyProblem) -> Iterator[Variation]:
    """Yield the problem with each kind of link twice as fast."""
    cluster = problem.cluster
    links = [level.link for group in cluster.groups for level in group.levels]
    links += [cluster.between_groups] if cluster.between_groups is not None else []
    for name in dict.fromkeys(link.name for link in links):
        yield Variation(
            sort="resource",
            change=f"twice the bandwidth of {name}",
            problem=replace(problem, cluster=_with_faster(cluster, name)),
        )


def _with_faster(cluster: Cluster, name: str) -> Cluster:
    def faster(link: Link) -> Link:
        if link.name != name:
            return link
        return replace(link, bandwidth_bytes_per_s=2 * link.bandwidth_bytes_per_s)

    groups = tuple(
        replace(group, levels=tuple(replace(level, link=faster(level.link)) for level in group.levels))
        for group in cluster.groups
    )
    between = faster(cluster.between_groups) if cluster.between_groups is not None else None
    return replace(cluster, groups=groups, between_groups=between)
