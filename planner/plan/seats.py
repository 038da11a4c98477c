"""Seats of replicas across two plans: which stay, which are filled again, which only changed their number."""

from __future__ import annotations

from collections.abc import Mapping

from planner.ir.cluster import Cluster, NodeGroup
from planner.plan.schema import Plan, Pool, Replica

SeatKey = tuple[str, str, str, tuple[int, ...], tuple[str, ...]]


def seat_key(pool: Pool, seat: Replica) -> SeatKey:
    """Return what makes a replica the same in two plans: what it runs, and the devices it sits on."""
    degrees = tuple(pool.strategy.model_dump().values())
    return (pool.model, pool.role, pool.weight_dtype, degrees, tuple(seat.devices))


def seats_of(plan: Plan) -> dict[SeatKey, Replica]:
    """Return the replicas of a plan by what makes them the same."""
    pools = {pool.name: pool for pool in plan.pools}
    return {seat_key(pools[s.pool], s): s for s in plan.placement if s.pool in pools}


def node_of(device: str) -> str:
    """Return the node of ``<node>/<index>``."""
    return device.rpartition("/")[0]


def refill(plan: Plan, cluster: Cluster, lost: frozenset[str]) -> list[Replica] | None:
    """Return the placement with every lost replica on free devices of one domain, None where none is free.

    `cluster` is what is left. Replicas that still stand keep their seats.
    """
    groups = {group.name: group for group in cluster.groups}
    pools = {pool.name: pool for pool in plan.pools}
    used = {device for seat in plan.placement for device in seat.devices}
    found: list[Replica] = []
    for seat in plan.placement:
        if not any(node_of(device) in lost for device in seat.devices):
            found.append(seat)
            continue
        group = groups.get(pools[seat.pool].node_group)
        free = _free_domain(group, len(seat.devices), used) if group is not None else None
        if free is None:
            return None
        used.update(free)
        found.append(seat.model_copy(update={"devices": free}))
    return found


def _free_domain(group: NodeGroup, count: int, used: set[str]) -> list[str] | None:
    """Return free devices of the fullest scale-up domain that holds so many, or of whole domains in a row."""
    size = group.domain_size
    span = -(-count // size)
    names = [_device(group, number) for number in range(group.num_devices)]
    domains = [
        [name for name in names[at : at + size * span] if name not in used]
        for at in range(0, len(names), size)
    ]
    whole = span > 1
    fitting = [d for d in domains if len(d) >= (size * span if whole else count)]
    return min(fitting, key=len)[:count] if fitting else None


def _device(group: NodeGroup, number: int) -> str:
    node, local = divmod(number, group.devices_per_node)
    name = group.node_names[node] if node < len(group.node_names) else f"{group.name}-{node}"
    return f"{name}/{local}"


def keep_seats(before: Plan, after: Plan, lost: frozenset[str]) -> list[Replica]:
    """Return the placement of `after` with replicas back on their old seats where these are free of others.

    Only replicas of the same shape trade seats, so every seat stays as good as it was.
    """
    pools = {pool.name: pool for pool in after.pools}
    old = {pool.name: pool for pool in before.pools}
    wanted: dict[tuple[object, ...], list[list[str]]] = {}
    for seat in before.placement:
        if not any(node_of(device) in lost for device in seat.devices):
            wanted.setdefault(_shape(old[seat.pool]), []).append(list(seat.devices))
    taken: Mapping[str, int] = {d: at for at, seat in enumerate(after.placement) for d in seat.devices}
    seats = [list(seat.devices) for seat in after.placement]
    owner = dict(taken)
    for at, seat in enumerate(after.placement):
        for devices in wanted.get(_shape(pools[seat.pool]), []):
            holders = {owner.get(device) for device in devices}
            if holders <= {None, at}:
                for device in seats[at]:
                    owner.pop(device, None)
                for device in devices:
                    owner[device] = at
                seats[at] = devices
                wanted[_shape(pools[seat.pool])].remove(devices)
                break
    return [s.model_copy(update={"devices": seats[at]}) for at, s in enumerate(after.placement)]


def _shape(pool: Pool) -> tuple[object, ...]:
    degrees = tuple(pool.strategy.model_dump().values())
    return (pool.model, pool.role, pool.node_group, pool.weight_dtype, pool.kv_dtype, pool.engine, degrees)
