"""What the links between nodes really carry, and a placement that keeps caches off the slow ones.

Every prefill replica of a model may feed every decode replica, so the mean transfer takes as long as the
mean of 1 / bandwidth over their pairs. Replicas of equal slots are exchanged, or moved to slots that are
free, as long as that sum over all models (weighted with their rates) and between the parts of replicas
gets shorter; where there are few ways to seat them, the best one is found.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from planner.diagnostics import Diagnostics
from planner.ir.candidates import ReplicaPlacement
from planner.ir.cluster import Cluster, NodeGroup
from planner.ir.fleet import FleetProblem
from planner.ir.problem import Problem
from planner.search.fleet_answer import ModelAnswer, items_of
from planner.search.fleet_place import Item, device_name
from planner.search.fleet_room import Room
from planner.search.fleet_seating import MOST_PRODUCTS, best_seats, num_products

_PREFILL, _DECODE = "prefill", "decode"
_UNJOINED = 1.0
"""Bytes per second between groups that nothing joins: never worth it."""
_MOST_EVALUATIONS = 400_000
_BETTER = 1.0 - 1e-9


@dataclass(slots=True, kw_only=True)
class Links:
    """Bandwidth between nodes, bytes per second and device: as measured, else as the levels say."""

    cluster: Cluster
    _measured: dict[tuple[str, str], float] = field(default_factory=dict[tuple[str, str], float])
    _where: dict[str, tuple[NodeGroup, int]] = field(default_factory=dict[str, tuple[NodeGroup, int]])

    def __post_init__(self) -> None:
        """Index nodes and measurements."""
        for group in self.cluster.groups:
            for number in range(group.num_nodes):
                self._where[group.node_name(number)] = (group, number)
        for link in self.cluster.measured:
            self._measured[link.first, link.second] = link.bandwidth_bytes_per_s

    def bandwidth(self, first: str, second: str) -> float:
        """Return the bandwidth between two nodes; within a node, that of its innermost level."""
        measured = self._measured.get((min(first, second), max(first, second)))
        if measured is not None:
            return measured
        (group, number), (other, position) = self._where[first], self._where[second]
        if group is not other:
            if not self.cluster.is_joined(group.name, other.name):
                return _UNJOINED
            between = self.cluster.between(group.name, other.name).link
            return between.bandwidth_bytes_per_s / between.oversubscription
        per_node = group.devices_per_node
        for level in group.levels:
            size = max(level.num_devices, 1)
            if number * per_node // size == position * per_node // size:
                return level.link.bandwidth_bytes_per_s / level.link.oversubscription
        last = group.levels[-1].link
        return last.bandwidth_bytes_per_s / last.oversubscription


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowestPair:
    """The slowest pair of nodes between which a model's cache moves."""

    prefill: str
    decode: str
    bandwidth_bytes_per_s: float


def slowest_pair(
    items: Sequence[Item], placement: Sequence[ReplicaPlacement], links: Links, model: int
) -> SlowestPair | None:
    """Return the slowest pair of prefill and decode of a model, None if it does not separate them."""
    nodes = {role: _nodes_of(items, placement, model, role) for role in (_PREFILL, _DECODE)}
    pairs = [
        SlowestPair(prefill=a, decode=b, bandwidth_bytes_per_s=links.bandwidth(a, b))
        for a in nodes[_PREFILL]
        for b in nodes[_DECODE]
        if a != b
    ]
    return min(pairs, key=lambda pair: (pair.bandwidth_bytes_per_s, pair.prefill, pair.decode), default=None)


def link_facts(
    problem: Problem[FleetProblem],
    answers: Sequence[ModelAnswer],
    placement: Sequence[ReplicaPlacement],
    diagnostics: Diagnostics,
) -> tuple[tuple[str, object], ...]:
    """Return, per model, the slowest pair that its cache crosses; warn where it is slower than was priced."""
    if not problem.cluster.measured:
        return ()
    items, links = items_of(problem, answers), Links(cluster=problem.cluster)
    found: dict[str, object] = {}
    for index, model in enumerate(problem.payload.models):
        pair = slowest_pair(items, placement, links, index)
        contexts = [c.context for c in answers[index].columns if c.role == _PREFILL and c.context is not None]
        if pair is None or not contexts:
            continue
        priced = min(context.link.bandwidth_bytes_per_s for context in contexts)
        found[model.name] = {
            "prefill": pair.prefill,
            "decode": pair.decode,
            "bandwidth_bytes_per_s": pair.bandwidth_bytes_per_s,
            "priced_bytes_per_s": priced,
        }
        if pair.bandwidth_bytes_per_s < priced * (1.0 - 1e-6):
            diagnostics.warn(
                "link-slower-than-priced",
                f"{model.name}: the cache moves from {pair.prefill} to {pair.decode} at "
                f"{pair.bandwidth_bytes_per_s / 1e9:.3g} GB/s per device as measured, {priced / 1e9:.3g} "
                "GB/s were priced: first tokens between these two come later",
            )
    return (("links", found),)


def _nodes_of(
    items: Sequence[Item], placement: Sequence[ReplicaPlacement], model: int, role: str
) -> tuple[str, ...]:
    found = {
        seat.devices[0].rpartition("/")[0]
        for item, seat in zip(items, placement, strict=True)
        if (item.model, item.role) == (model, role)
    }
    return tuple(sorted(found))


def along_links(
    items: Sequence[Item],
    placement: Sequence[ReplicaPlacement],
    rooms: Sequence[Room],
    cluster: Cluster,
    rates: Mapping[int, float],
) -> tuple[ReplicaPlacement, ...]:
    """Return the placement with replicas exchanged for shorter transfers, as given if nothing is measured."""
    if not cluster.measured:
        return tuple(placement)
    board = _Board(items=items, rooms=rooms, links=Links(cluster=cluster), rates=rates)
    board.start(placement)
    if not board.seat_exactly():
        board.improve()
    return tuple(
        ReplicaPlacement(pool=item.pool, replica=item.replica, devices=board.seats[at])
        for at, item in enumerate(items)
    )


@dataclass(slots=True, kw_only=True)
class _Board:
    """Replicas on their seats, the seats that are free, and what moving costs."""

    items: Sequence[Item]
    rooms: Sequence[Room]
    links: Links
    rates: Mapping[int, float]
    seats: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    free: dict[tuple[int, int], list[tuple[str, ...]]] = field(
        default_factory=dict[tuple[int, int], list[tuple[str, ...]]]
    )
    partners: list[list[int]] = field(default_factory=list[list[int]])
    weights: list[float] = field(default_factory=list[float])
    num_evaluations: int = 0

    def start(self, placement: Sequence[ReplicaPlacement]) -> None:
        """Take over a placement: index partners of every replica and the whole slots that are free."""
        self.seats = [seat.devices for seat in placement]
        by_role: dict[tuple[int, str], list[int]] = {}
        for at, item in enumerate(self.items):
            by_role.setdefault((item.model, item.role), []).append(at)
        for item in self.items:
            other = {_PREFILL: _DECODE, _DECODE: _PREFILL}.get(item.role)
            partners = by_role.get((item.model, other), []) if other is not None else []
            own = len(by_role[item.model, item.role])
            self.partners.append(partners)
            self.weights.append(self.rates.get(item.model, 0.0) / (own * len(partners)) if partners else 0.0)
        taken = {device for seat in self.seats for device in seat}
        for group, room in enumerate(self.rooms):
            for devices in room.usable:
                names = [device_name(room.group, device) for device in devices]
                left = [name for name in names if name not in taken]
                for size in {item.num_devices for item in self.items if item.group == group}:
                    slots = [tuple(left[k : k + size]) for k in range(0, len(left) - size + 1, size)]
                    if size <= room.group.domain_size:
                        self.free.setdefault((group, size), []).extend(slots)

    def _movable(self) -> list[int]:
        """Return the replicas of one slot that need not spread over failure domains."""
        return [at for at, item in enumerate(self.items) if item.spread is None and len(item.units) == 1]

    def seat_exactly(self) -> bool:
        """Seat all replicas together where there are few ways to; return whether that was done."""
        movable = set(self._movable())
        taken: dict[tuple[int, int], list[tuple[str, ...]]] = {}
        for at in sorted(movable):
            key = (self.items[at].group, self.items[at].num_devices)
            taken.setdefault(key, []).append(self.seats[at])
        options: list[list[tuple[str, ...]]] = []
        for at, item in enumerate(self.items):
            key = (item.group, item.num_devices)
            options.append([*taken[key], *self.free.get(key, [])] if at in movable else [self.seats[at]])
        pairs = {
            (at, other): self.weights[at] + self.weights[other]
            for at, item in enumerate(self.items)
            for other in self.partners[at]
            if item.role == _PREFILL
        }
        if num_products(options, pairs) > MOST_PRODUCTS:
            return False
        found = best_seats(options, self.seats, pairs, self.links.bandwidth)
        if found is not None:
            self.seats = found
        return found is not None

    def improve(self) -> None:
        """Exchange and move replicas until nothing gets shorter."""
        movable = self._movable()
        changed = True
        while changed and self.num_evaluations < _MOST_EVALUATIONS:
            changed = sum(self._moved(at) for at in movable) > 0
            for place, first in enumerate(movable):
                for second in movable[place + 1 :]:
                    changed |= self._alike(first, second) and self._exchanged(first, second)

    def _alike(self, first: int, second: int) -> bool:
        one, other = self.items[first], self.items[second]
        same = (one.group, one.num_devices) == (other.group, other.num_devices)
        return same and one.pool != other.pool and self._node(first) != self._node(second)

    def _node(self, at: int) -> str:
        return self.seats[at][0].rpartition("/")[0]

    def _exchanged(self, first: int, second: int) -> bool:
        before = self._cost(first, second)
        self._swap(first, second)
        if self._cost(first, second) < before * _BETTER:
            return True
        self._swap(first, second)
        return False

    def _swap(self, first: int, second: int) -> None:
        self.seats[first], self.seats[second] = self.seats[second], self.seats[first]

    def _moved(self, at: int) -> bool:
        """Move a replica to the best free slot of its size, if that is better than its own."""
        item = self.items[at]
        slots = self.free.get((item.group, item.num_devices), [])
        before, own = self._cost(at), self.seats[at]
        best: tuple[float, int] | None = None
        seen: set[str] = set()
        for number, slot in enumerate(slots):
            self.seats[at] = slot
            if self._node(at) in seen or self.num_evaluations > _MOST_EVALUATIONS:
                continue
            seen.add(self._node(at))
            cost = self._cost(at)
            if cost < before * _BETTER and (best is None or cost < best[0]):
                best = (cost, number)
        self.seats[at] = own
        if best is not None:
            self._take(at, slots[best[1]])
        return best is not None

    def _take(self, at: int, slot: tuple[str, ...]) -> None:
        """Seat a replica on a free slot; slots that shared devices with it are gone, its own becomes free."""
        group = self.items[at].group
        used = set(slot)
        for (where, size), slots in self.free.items():
            if where == group:
                self.free[where, size] = [one for one in slots if not used & set(one)]
        self.free.setdefault((group, self.items[at].num_devices), []).append(self.seats[at])
        self.seats[at] = slot

    def _cost(self, *moved: int) -> float:
        """Return the transfer seconds per byte that depend on replicas; a pair of them counts twice."""
        return sum(term for at in moved for term in self._terms(at))

    def _terms(self, at: int) -> Iterator[float]:
        node, weight = self._node(at), self.weights[at]
        for other in self.partners[at]:
            self.num_evaluations += 1
            there = self._node(other)
            if there != node:
                yield weight / self.links.bandwidth(node, there)
