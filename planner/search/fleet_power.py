"""Power domains that nodes of several kinds share: which devices may run under each cap.

Domains with equal contents are one class. What may run in a domain is a pattern: so many devices of each
kind, together within the cap, of the last kind as many as the rest allows. A pattern gives slots (nodes fill
one after the other), and an integer number of the class's domains run each pattern, which is exact as
domains of a class are interchangeable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product

from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.fleet import FleetProblem
from planner.search.fleet_room import Room, device_power_w

_MOST_PATTERNS = 20_000
Parts = tuple[int, ...]
"""Usable devices of every scale-up domain."""
Devices = tuple[tuple[int, ...], ...]
"""The same by number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """What runs in one domain: the devices of each group in its scale-up domains."""

    parts: tuple[Parts, ...]

    def slots(self, member: int, size: int) -> int:
        """Return the devices of a group that lie in whole slots of a size."""
        return size * sum(part // size for part in self.parts[member])


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerClass:
    """Equal domains: the groups with nodes in them, the devices of each domain by group, what may run."""

    groups: tuple[int, ...]
    domains: tuple[tuple[Devices, ...], ...]
    patterns: tuple[Pattern, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPower:
    """All classes with a cap, and for each group the devices outside of them."""

    classes: tuple[PowerClass, ...] = ()
    free: tuple[Room, ...] = ()


NO_SHARED_POWER = SharedPower()


def node_domains(problem: FleetProblem, groups: Sequence[NodeGroup]) -> tuple[tuple[int, ...], ...]:
    """Return the number of the power domain of every node of every group; a node outside is one by itself."""
    found: list[list[int]] = [[] for _ in groups]
    names = [group.name for group in groups]
    number = 0
    for stated in problem.power_domains:
        for _ in range(stated.count):
            for name, nodes in stated.nodes:
                found[names.index(name)].extend([number] * nodes)
            number += 1
    for group, numbers in zip(groups, found, strict=True):
        outside = group.num_nodes - len(numbers)
        numbers.extend(range(number, number + outside))
        number += outside
    return tuple(map(tuple, found))


def joint_cells(problem: FleetProblem, rooms: Sequence[Room]) -> tuple[tuple[tuple[int, ...], int], ...]:
    """Return for every set of groups how many power domains hold usable devices of any of them.

    Replicas of these groups fit their domains, a few to each, if no set has more than its domains hold
    (P. Hall, On representatives of subsets, 1935).
    """
    groups = [room.group for room in rooms]
    numbers = node_domains(problem, groups)
    cells = [
        {numbers[g][device // room.group.devices_per_node] for part in room.usable for device in part}
        for g, room in enumerate(rooms)
    ]
    found: list[tuple[tuple[int, ...], int]] = []
    for size in range(1, len(rooms) + 1):
        for chosen in combinations(range(len(rooms)), size):
            found.append((chosen, len(set[int]().union(*(cells[g] for g in chosen)))))
    return tuple(found)


def shared_power(problem: FleetProblem, rooms: Sequence[Room]) -> SharedPower:
    """Return what caps of shared domains leave; nothing where there are none."""
    if not any(stated.cap_w is not None for stated in problem.power_domains):
        return SharedPower()
    numbers = node_domains(problem, [room.group for room in rooms])
    capped: dict[int, float] = {}
    number = 0
    for stated in problem.power_domains:
        if stated.cap_w is not None:
            capped |= dict.fromkeys(range(number, number + stated.count), stated.cap_w)
        number += stated.count
    inside: dict[int, dict[int, Devices]] = {}
    free: list[Room] = []
    for g, room in enumerate(rooms):
        outside: list[tuple[int, ...]] = []
        for part in room.usable:
            at = {numbers[g][device // room.group.devices_per_node] for device in part}
            domain = at.pop() if at else -1
            if domain in capped:
                mine = inside.setdefault(domain, {})
                mine[g] = (*mine.get(g, ()), part)
                outside.append(())
            else:
                outside.append(part)
        free.append(replace(room, usable=tuple(outside)))
    return SharedPower(classes=_classes(inside, capped, rooms), free=tuple(free))


def _classes(
    inside: Mapping[int, Mapping[int, Devices]], capped: Mapping[int, float], rooms: Sequence[Room]
) -> tuple[PowerClass, ...]:
    alike: dict[tuple[object, ...], list[int]] = {}
    for domain, members in sorted(inside.items()):
        sizes = tuple((g, tuple(map(len, parts))) for g, parts in sorted(members.items()))
        alike.setdefault((capped[domain], sizes), []).append(domain)
    found: list[PowerClass] = []
    for domains in alike.values():
        members = inside[domains[0]]
        groups = tuple(sorted(members))
        parts = [tuple(map(len, members[g])) for g in groups]
        watts = [device_power_w(rooms[g].group) for g in groups]
        found.append(
            PowerClass(
                groups=groups,
                domains=tuple(tuple(inside[d][g] for g in groups) for d in domains),
                patterns=_patterns(parts, watts, capped[domains[0]]),
            )
        )
    return tuple(found)


def _patterns(parts: Sequence[Parts], watts: Sequence[float], cap_w: float) -> tuple[Pattern, ...]:
    """Return the patterns of a domain that none contains.

    Raises
    ------
    InputError
        If there are too many to look through.
    """
    most = [min(sum(own), int(cap_w / power + 1e-9)) for own, power in zip(parts, watts, strict=True)]
    number = 1
    for one in most[:-1]:
        number *= one + 1
    if number > _MOST_PATTERNS:
        raise InputError(
            "a power domain holds so many devices of so many kinds that its cap cannot be looked through",
            key="power_domains",
            value=number,
            allowed=f"{_MOST_PATTERNS} ways to share a cap",
        )
    found: dict[Pattern, None] = {}
    for counts in product(*(range(one + 1) for one in most[:-1])):
        left = cap_w - sum(n * power for n, power in zip(counts, watts, strict=False))
        last = min(most[-1], int(left / watts[-1] + 1e-9))
        if left > -1e-6 * cap_w:
            filled = (_filled(own, n) for own, n in zip(parts, (*counts, last), strict=True))
            found[Pattern(parts=tuple(filled))] = None
    kept: list[Pattern] = []
    ends: dict[tuple[Parts, ...], tuple[int, Pattern]] = {}
    for pattern in found:
        # Of patterns with equally many of the last kind, those with more of one kind and no fewer of others.
        rest, own = pattern.parts[1:], sum(pattern.parts[0])
        if rest not in ends or own > ends[rest][0]:
            ends[rest] = (own, pattern)
    kept.extend(pattern for _, pattern in ends.values())
    return tuple(kept)


def _filled(parts: Parts, count: int) -> Parts:
    """Return how `count` devices fall on scale-up domains that fill one after the other."""
    found: list[int] = []
    for part in parts:
        found.append(min(part, count - sum(found)))
    return tuple(found)
