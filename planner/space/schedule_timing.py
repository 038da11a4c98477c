"""Start times of pipeline schedules: every operation as early as its device order lets it."""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineSchedule, PipelineWork

_FORWARD, _BACKWARD, _WEIGHT = 0, 1, 2
_SLOT = {"F": _FORWARD, "I": _BACKWARD, "B": _BACKWARD, "W": _WEIGHT}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpGraph:
    """Operations numbered by device order, with what each waits for on other operations.

    `waits_for[n]` is the operation that must end `lag_s[n]` before n starts, or -1. One is enough: what
    else an operation depends on is implied by it.
    """

    device_nodes: tuple[range, ...]
    duration_s: list[float]
    waits_for: list[int]
    lag_s: list[float]


def compile_ops(work: PipelineWork, device_ops: DeviceOps) -> OpGraph:
    """Return the graph of a schedule's operations.

    Raises
    ------
    InputError
        If an operation is on no route, missing or there twice.
    """
    nodes: dict[tuple[int, int, int], int] = {}
    ranges: list[range] = []
    ops: list[PipelineOp] = []
    for row in device_ops:
        ranges.append(range(len(ops), len(ops) + len(row)))
        for op in row:
            key = (_SLOT[op.kind], op.stage, op.microbatch)
            if key in nodes:
                raise InputError("an operation is scheduled twice", value=str(op))
            nodes[key] = len(ops)
            ops.append(op)
    neighbours = {route: _neighbours(route) for route in set(work.routes)}
    waits_for: list[int] = []
    lag_s: list[float] = []
    for op in ops:
        key = _predecessor(op, neighbours[work.routes[op.microbatch]].get(op.stage))
        if key is not None and key not in nodes:
            raise InputError("an operation waits for one that is not scheduled", value=str(op))
        waits_for.append(-1 if key is None else nodes[key])
        lag_s.append(0.0 if key is None else work.send_between_s(key[1], op.stage))
    return OpGraph(
        device_nodes=tuple(ranges),
        duration_s=[work.duration_s(op) for op in ops],
        waits_for=waits_for,
        lag_s=lag_s,
    )


def _neighbours(route: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    padded = (-1, *route, -1)
    return {stage: (padded[i], padded[i + 2]) for i, stage in enumerate(route)}


def _predecessor(op: PipelineOp, around: tuple[int, int] | None) -> tuple[int, int, int] | None:
    if around is None:
        raise InputError("a micro-batch is scheduled on a stage that it does not visit", value=str(op))
    before, after = around
    if op.kind == "F":
        return None if before < 0 else (_FORWARD, before, op.microbatch)
    if op.kind == "W":
        return (_BACKWARD, op.stage, op.microbatch)
    return (_FORWARD, op.stage, op.microbatch) if after < 0 else (_BACKWARD, after, op.microbatch)


def earliest_starts(
    graph: OpGraph, release_s: list[float] | None = None
) -> tuple[list[float], list[int]] | None:
    """Return earliest starts and an order that respects all waiting; None if the device orders deadlock.

    No device starts before its `release_s`.
    """
    num_ops = len(graph.duration_s)
    starts = [0.0] * num_ops
    ends = [-1.0] * num_ops
    at = [nodes.start for nodes in graph.device_nodes]
    free = list(release_s) if release_s else [0.0] * len(at)
    waiting: dict[int, list[int]] = {}
    runnable = list(range(len(at)))
    done: list[int] = []
    while runnable:
        device = runnable.pop()
        node, stop, now = at[device], graph.device_nodes[device].stop, free[device]
        while node < stop:
            other = graph.waits_for[node]
            if other >= 0:
                if ends[other] < 0:
                    waiting.setdefault(other, []).append(device)
                    break
                now = max(now, ends[other] + graph.lag_s[node])
            starts[node] = now
            now += graph.duration_s[node]
            ends[node] = now
            runnable += waiting.pop(node, ())
            done.append(node)
            node += 1
        at[device], free[device] = node, now
    return (starts, done) if len(done) == num_ops else None


def latest_starts(graph: OpGraph, starts: list[float], order: list[int]) -> list[float]:
    """Return the latest start of every operation that keeps each device's last end where it is.

    `order` is one in which everything comes after what it waits for.
    """
    latest = [float("inf")] * len(starts)
    for nodes in graph.device_nodes:
        if nodes:
            latest[nodes[-1]] = starts[nodes[-1]]
    following = [-1] * len(starts)
    for nodes in graph.device_nodes:
        for node in nodes[1:]:
            following[node - 1] = node
    for node in reversed(order):
        after = following[node]
        if after >= 0:
            latest[node] = min(latest[node], latest[after] - graph.duration_s[node])
        other = graph.waits_for[node]
        if other >= 0:
            latest[other] = min(latest[other], latest[node] - graph.lag_s[node] - graph.duration_s[other])
    return latest


def timed(
    work: PipelineWork, device_ops: DeviceOps, name: str, *, align_late: bool = False
) -> PipelineSchedule:
    """Return the schedule with every operation as early as possible.

    With `align_late`, each device begins as late as it can without any device ending later, so that its
    time is counted from when it is needed.

    Raises
    ------
    InputError
        If the orders deadlock or do not cover the work.
    """
    graph = compile_ops(work, device_ops)
    found = earliest_starts(graph)
    if found is None:
        raise InputError("the device orders wait for each other in a circle", value=name)
    starts, order = found
    if align_late:
        latest = latest_starts(graph, starts, order)
        release_s = [
            max(starts[nodes.start], latest[nodes.start]) if nodes else 0.0 for nodes in graph.device_nodes
        ]
        # What is possible with every operation at its latest is possible with all but the first earlier.
        again = earliest_starts(graph, release_s)
        assert again is not None
        starts = again[0]
    rows = tuple(tuple(starts[n] for n in nodes) for nodes in graph.device_nodes)
    return PipelineSchedule(name=name, work=work, device_ops=device_ops, start_s=rows)
