"""Shared power domains in integer programs: how many domains of a class run each pattern."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ortools.math_opt.python import mathopt

from planner.search.fleet_place import Item
from planner.search.fleet_power import Pattern, SharedPower
from planner.search.fleet_room import Room
from planner.search.mip import Expression, at_least, at_most, solve_with_highs

_SECONDS = 10.0
Shares = tuple[tuple[mathopt.Variable, Pattern], ...]


def choose_patterns(model: mathopt.Model, power: SharedPower) -> tuple[Shares, ...]:
    """Add how many domains of every class run each pattern."""
    found: list[Shares] = []
    for one in power.classes:
        shares = tuple((model.add_integer_variable(lb=0.0), pattern) for pattern in one.patterns)
        at_most(model, [share for share, _ in shares], float(len(one.domains)))
        found.append(shares)
    return tuple(found)


def slots_given(power: SharedPower, shares: Sequence[Shares], group: int, size: int) -> list[Expression]:
    """Return the devices of a group in whole slots of a size, over free nodes and chosen patterns."""
    found: list[Expression] = [float(power.free[group].slots((size,))[size])]
    for one, own in zip(power.classes, shares, strict=True):
        if group in one.groups:
            member = one.groups.index(group)
            found.extend(n * share for share, pattern in own if (n := float(pattern.slots(member, size))))
    return found


def rooms_under(power: SharedPower, rooms: Sequence[Room], items: Iterable[Item]) -> tuple[Room, ...]:
    """Return the room of every group when domains run what the items need; unchanged without caps."""
    if not power.classes:
        return tuple(rooms)
    model = mathopt.Model()
    shares = choose_patterns(model, power)
    needed: dict[tuple[int, int], int] = {}
    listed = list(items)
    for item in listed:
        for size in {1, *(unit for other in listed if other.group == item.group for unit in other.units)}:
            amount = sum(unit for unit in item.units if unit >= size)
            needed[item.group, size] = needed.get((item.group, size), 0) + amount
    for (group, size), amount in needed.items():
        at_least(model, [*slots_given(power, shares, group, size), -float(amount)])
    result = solve_with_highs(model, _SECONDS, 1e-9)
    if not result.has_primal_feasible_solution():
        return tuple(rooms)
    usable: list[list[tuple[int, ...]]] = [list(room.usable) for room in power.free]
    for one, own in zip(power.classes, shares, strict=True):
        chosen = [pattern for share, pattern in own for _ in range(round(result.variable_values(share)))]
        for domain, pattern in zip(one.domains, chosen, strict=False):
            for member, group in enumerate(one.groups):
                for devices, count in zip(domain[member], pattern.parts[member], strict=True):
                    at = devices[0] // rooms[group].group.domain_size if devices else 0
                    usable[group][at] = devices[:count] if devices else usable[group][at]
    return tuple(replace(room, usable=tuple(own)) for room, own in zip(rooms, usable, strict=True))
