"""Places the replicas of a fleet: slots inside scale-up domains, large ones first, partners side by side.

Slots are powers of two, so any order of equal slots packs as well as any other; the choice among
domains that fit equally tightly is therefore free, and goes to the one nearest to the model's other
replicas (its decode pool next to its prefill pool). Fault-tolerant models spread over failure domains.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from planner.ir.candidates import ReplicaPlacement
from planner.ir.cluster import NodeGroup
from planner.search.fleet_room import Room, node_name

_LOOK_AHEAD = 24
"""Domains of equal fit that are compared by distance to the model's other replicas."""
_MIXED_ORDERS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One replica to place.

    `spread` is (devices of a failure domain, most replicas of this role in one) for tolerant models; 0
    devices stand for power domains that groups share.
    """

    pool: str
    replica: int
    model: int
    role: str
    group: int
    units: tuple[int, ...]
    num_devices: int
    spread: tuple[int, int] | None = None


@dataclass(slots=True, kw_only=True)
class Grounds:
    """The free devices of one group, by scale-up domain, and which models sit where.

    Where groups share power domains, `domains` numbers that of every node, `num_groups` says how many groups
    are in each, and `shared` counts replicas over all of them.
    """

    room: Room
    domains: tuple[int, ...] = ()
    shared: Counter[tuple[int, str, int]] = field(default_factory=Counter[tuple[int, str, int]])
    num_groups: Counter[int] = field(default_factory=Counter[int])
    free: list[list[int]] = field(init=False)
    by_size: dict[int, set[int]] = field(init=False)
    neighbours: Counter[tuple[int, int]] = field(default_factory=Counter[tuple[int, int]])
    in_cell: Counter[tuple[int, str, int]] = field(default_factory=Counter[tuple[int, str, int]])

    def __post_init__(self) -> None:
        """Index the domains by how much is free in them."""
        self.free = [list(devices) for devices in self.room.usable]
        self.by_size = {}
        for index, devices in enumerate(self.free):
            self.by_size.setdefault(len(devices), set()).add(index)

    @property
    def group(self) -> NodeGroup:
        """The group."""
        return self.room.group

    def take(self, item: Item) -> tuple[int, ...] | None:
        """Return the devices of a replica and mark them as used, None if it finds no room."""
        taken: list[int] = []
        for unit in item.units:
            domain = self._domain(item, unit, taken)
            if domain is None:
                self._give_back(taken)
                return None
            count = min(unit, item.num_devices - len(taken))
            found = self._part(domain, count, item.spread)
            self.occupy(domain, found)
            taken.extend(found)
        self.settle(item, taken)
        return tuple(taken)

    def settle(self, item: Item, devices: Sequence[int]) -> None:
        """Remember that a replica sits on devices that are no longer free."""
        size = self.group.domain_size
        for domain in {device // size for device in devices}:
            self.neighbours[item.model, domain] += 1
        if item.spread is not None:
            for cell in {self._cell(device, item.spread[0]) for device in devices}:
                self._count(item.spread[0])[item.model, item.role, cell] += 1

    def _cell(self, device: int, size: int) -> int:
        """Return the failure domain of a device."""
        return device // size if size else self.domains[device // self.group.devices_per_node]

    def _count(self, size: int) -> Counter[tuple[int, str, int]]:
        """Return how many replicas sit in each failure domain, of this group or of all."""
        return self.in_cell if size else self.shared

    def occupy(self, domain: int, devices: Iterable[int]) -> None:
        """Mark devices of a domain as used."""
        self.by_size[len(self.free[domain])].discard(domain)
        used = set(devices)
        self.free[domain] = [device for device in self.free[domain] if device not in used]
        self.by_size.setdefault(len(self.free[domain]), set()).add(domain)

    def _give_back(self, devices: Sequence[int]) -> None:
        size = self.group.domain_size
        for device in devices:
            domain = device // size
            self.by_size[len(self.free[domain])].discard(domain)
            self.free[domain] = sorted([*self.free[domain], device])
            self.by_size.setdefault(len(self.free[domain]), set()).add(domain)

    def _domain(self, item: Item, unit: int, taken: Sequence[int]) -> int | None:
        """Return the tightest domain with a slot for a unit, the nearest to its kin among equals."""
        if item.spread is not None and not item.spread[0]:
            return self._own_domain(item, unit, taken)
        for size in sorted(s for s, domains in self.by_size.items() if s >= unit and domains):
            allowed = [d for d in sorted(self.by_size[size]) if self._allows(d, item, unit)]
            if allowed:
                listed = allowed[:_LOOK_AHEAD] + [
                    d for d in allowed[_LOOK_AHEAD:] if self.neighbours[item.model, d]
                ]
                return min(listed, key=lambda d: (self._distance(d, item, taken), d))
        return None

    def _own_domain(self, item: Item, unit: int, taken: Sequence[int]) -> int | None:
        """Return a domain whose power is shared with the fewest groups, which leaves the others theirs."""
        allowed = [
            (self._sharing(domain), size, self._distance(domain, item, taken), domain)
            for size, domains in self.by_size.items()
            for domain in domains
            if size >= unit and self._allows(domain, item, unit)
        ]
        return min(allowed)[-1] if allowed else None

    def _sharing(self, domain: int) -> int:
        """Return how many groups have nodes in the power domain of a scale-up domain."""
        number = self.domains[domain * self.group.domain_size // self.group.devices_per_node]
        return self.num_groups[number]

    def _allows(self, domain: int, item: Item, unit: int) -> bool:
        if item.spread is None:
            return True
        return self._part(domain, min(unit, item.num_devices), item.spread, item) != []

    def _part(
        self, domain: int, count: int, spread: tuple[int, int] | None, item: Item | None = None
    ) -> list[int]:
        """Return `count` free devices of a domain, of one failure domain where replicas must spread."""
        devices = self.free[domain]
        if spread is None or not spread[0] or spread[0] >= self.group.domain_size:
            if item is not None and spread is not None and devices:
                cell = self._cell(devices[0], spread[0])
                if self._count(spread[0])[item.model, item.role, cell] >= spread[1]:
                    return []
            return devices[:count]
        cells: dict[int, list[int]] = {}
        for device in devices:
            cells.setdefault(device // spread[0], []).append(device)
        for cell, own in sorted(cells.items(), key=lambda pair: (len(pair[1]), pair[0])):
            full = item is not None and self.in_cell[item.model, item.role, cell] >= spread[1]
            if len(own) >= count and not full:
                return own[:count]
        return [] if item is not None else devices[:count]

    def _distance(self, domain: int, item: Item, taken: Sequence[int]) -> float:
        """Return how far a domain lies from the replica's own other parts, or from the model's replicas."""
        size = self.group.domain_size
        if taken:
            home = taken[-1] // size
            return self._levels_apart(domain, home) * 1000.0 + abs(domain - home)
        return 0.0 if self.neighbours[item.model, domain] else 1.0

    def _levels_apart(self, first: int, second: int) -> int:
        size = self.group.domain_size
        for depth, level in enumerate(self.group.levels):
            if first * size // level.num_devices == second * size // level.num_devices:
                return depth
        return len(self.group.levels)


def place_fleet(
    items: Sequence[Item], rooms: Sequence[Room], domains: Sequence[tuple[int, ...]] = ()
) -> tuple[ReplicaPlacement, ...] | None:
    """Return where every replica sits, in the order given, or None if one finds no room.

    `domains` numbers the power domain of every node of every group, where groups share them. Widest first
    leaves the least over; where that fills the failure domains that others have to spread over, these go
    first, and then several mixtures of both.
    """
    own = domains or [()] * len(rooms)
    num_groups = Counter(number for numbers in own for number in set(numbers))
    for order in _orders(items):
        shared: Counter[tuple[int, str, int]] = Counter()
        grounds = [
            Grounds(room=room, domains=numbers, shared=shared, num_groups=num_groups)
            for room, numbers in zip(rooms, own, strict=True)
        ]
        found = place_on(grounds, items, order)
        if found is not None:
            return found
    return None


def _orders(items: Sequence[Item]) -> Iterator[list[int]]:
    """Yield orders in which to place replicas; one alone where nothing has to spread."""
    widest = _widest_first(items)
    yield widest
    if any(item.spread is not None for item in items):
        yield sorted(widest, key=lambda i: items[i].spread is None)
        generator = random.Random(0)
        for _ in range(_MIXED_ORDERS):
            ahead = {pool: generator.random() < 0.5 for pool in dict.fromkeys(item.pool for item in items)}
            yield sorted(widest, key=lambda i: (not ahead[items[i].pool], items[i].spread is None))


def _widest_first(items: Sequence[Item]) -> list[int]:
    return sorted(
        range(len(items)),
        key=lambda i: (-len(items[i].units), -items[i].units[0], items[i].spread is None, items[i].model, i),
    )


def place_on(
    grounds: Sequence[Grounds], items: Sequence[Item], order: Sequence[int] = ()
) -> tuple[ReplicaPlacement, ...] | None:
    """Place replicas on what is free, in an order or widest first; None if one finds no room."""
    order = order or _widest_first(items)
    found: dict[int, tuple[str, ...]] = {}
    for index in order:
        item = items[index]
        where = grounds[item.group]
        devices = where.take(item)
        if devices is None:
            return None
        found[index] = tuple(device_name(where.group, device) for device in devices)
    return tuple(
        ReplicaPlacement(pool=item.pool, replica=item.replica, devices=found[index])
        for index, item in enumerate(items)
    )


def device_name(group: NodeGroup, device: int) -> str:
    """Return ``<node>/<index>`` of a device of a group."""
    node, local = divmod(device, group.devices_per_node)
    return f"{node_name(group, node)}/{local}"
