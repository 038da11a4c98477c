"""Places replicas on devices: tensor groups inside scale-up domains, pairs that must share one together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from planner.ir.candidates import ReplicaPlacement
from planner.ir.cluster import NodeGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One replica to place: `num_stages` stages of `stage_devices`, all in the group `group`.

    Blocks with the same `bundle` (not None) have to share one scale-up domain.
    """

    pool: str
    replica: int
    group: int
    num_stages: int
    stage_devices: int
    bundle: int | None = None

    @property
    def num_devices(self) -> int:
        """Devices of the replica."""
        return self.num_stages * self.stage_devices


@dataclass(slots=True, kw_only=True)
class _Domains:
    """Free devices of one group by scale-up domain, lowest index first."""

    group: NodeGroup
    free: list[list[int]] = field(default_factory=list[list[int]])

    def __post_init__(self) -> None:
        size = self.group.domain_size
        for start in range(0, self.group.num_devices, size):
            self.free.append(list(range(start, min(start + size, self.group.num_devices))))

    def take(self, count: int) -> list[int] | None:
        """Return `count` devices of the fullest domain that still has them, or whole domains, or None."""
        if count > self.group.domain_size:
            return self._take_whole(count)
        fitting = [domain for domain in self.free if len(domain) >= count]
        if not fitting:
            return None
        best = min(fitting, key=len)
        taken, best[:] = best[:count], best[count:]
        return taken

    def _take_whole(self, count: int) -> list[int] | None:
        size = self.group.domain_size
        whole = [domain for domain in self.free if len(domain) == size][: -(-count // size)]
        if len(whole) * size < count:
            return None
        taken = [device for domain in whole for device in domain][:count]
        left = count
        for domain in whole:
            domain[:] = domain[min(left, size) :]
            left -= min(left, size)
        return taken

    def name(self, index: int) -> str:
        """Return ``<node>/<index>`` of a device."""
        node, local = divmod(index, self.group.devices_per_node)
        names = self.group.node_names
        return f"{names[node] if node < len(names) else f'{self.group.name}-{node}'}/{local}"


def place(blocks: Sequence[Block], groups: Sequence[NodeGroup]) -> tuple[ReplicaPlacement, ...] | None:
    """Return where every replica sits, or None if this packing finds no room.

    Largest first into the fullest domain that has room, which is exact when sizes divide one another;
    a replica that finds no domain of its own is placed stage by stage.
    """
    domains = [_Domains(group=group) for group in groups]
    found: dict[tuple[str, int], tuple[str, ...]] = {}
    for unit in _units(blocks):
        where = domains[unit[0].group]
        taken = _take_unit(where, unit)
        if taken is None:
            return None
        for block, devices in zip(unit, taken, strict=True):
            found[block.pool, block.replica] = tuple(where.name(device) for device in devices)
    return tuple(
        ReplicaPlacement(pool=block.pool, replica=block.replica, devices=found[block.pool, block.replica])
        for block in blocks
    )


def _units(blocks: Sequence[Block]) -> list[list[Block]]:
    """Return what is placed together: bundles and single replicas, largest first, in a fixed order."""
    units: dict[tuple[str, int, int], list[Block]] = {}
    for block in blocks:
        key = ("", block.bundle, 0) if block.bundle is not None else (block.pool, 0, block.replica)
        units.setdefault(key, []).append(block)

    def size(unit: list[Block]) -> tuple[int, int]:
        return (-max(block.stage_devices for block in unit), -sum(block.num_devices for block in unit))

    for unit in units.values():
        unit.sort(key=lambda block: -block.stage_devices)
    return sorted(units.values(), key=size)


def _take_unit(where: _Domains, unit: list[Block]) -> list[list[int]] | None:
    whole = where.take(sum(block.num_devices for block in unit))
    if whole is not None:
        taken: list[list[int]] = []
        for block in unit:
            taken.append(whole[: block.num_devices])
            whole = whole[block.num_devices :]
        return taken
    if len(unit) > 1:
        return None
    devices: list[int] = []
    for _ in range(unit[0].num_stages):
        stage = where.take(unit[0].stage_devices)
        if stage is None:
            return None
        devices.extend(stage)
    return [devices]
