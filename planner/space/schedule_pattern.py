"""Orders from a steady pattern: every micro-batch follows the one before at a constant distance.

Times of the pattern are only priorities: they say what comes before what on a device, not when. They rise
along every dependency, so the orders never deadlock; slower legs keep activations alive for longer and give
the device more to choose from when gaps are filled.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.pipeline_schedule import DeviceOps, PassKind, PipelineOp, PipelineWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """A pattern for work whose micro-batches all take one route.

    Parameters
    ----------
    waits_s
        Extra time per hop between devices on each leg: forward legs in order, then backward legs in
        order of time. A leg is one lap over the devices.
    weight_wait_s
        Time from the end of I to W.
    period_s
        Distance of one micro-batch from the next.
    """

    waits_s: tuple[float, ...]
    weight_wait_s: float
    period_s: float


def num_legs(work: PipelineWork) -> int:
    """Return the forward legs of the route: laps over the devices."""
    return -(-len(work.routes[0]) // work.num_devices)


def pattern_orders(work: PipelineWork, pattern: Pattern) -> DeviceOps:
    """Return device orders sorted by the pattern's times."""
    offsets = _offsets(work, pattern)
    rows: list[list[tuple[float, int, int, PipelineOp]]] = [[] for _ in range(work.num_devices)]
    for place, (kind, stage, offset) in enumerate(offsets):
        row = rows[work.stages[stage].device]
        for m in range(work.num_microbatches):
            op = PipelineOp(kind=kind, stage=stage, microbatch=m)
            row.append((offset + m * pattern.period_s, place, m, op))
    return tuple(tuple(entry[3] for entry in sorted(row)) for row in rows)


def _offsets(work: PipelineWork, pattern: Pattern) -> list[tuple[PassKind, int, float]]:
    """Return all operations of micro-batch 0 with their times, in an order that respects dependencies."""
    route, count = work.routes[0], work.num_devices
    legs = num_legs(work)
    now = 0.0
    offsets: list[tuple[PassKind, int, float]] = []
    for i, s in enumerate(route):
        if i:
            now += work.stages[route[i - 1]].forward_s + _hop(
                work, route[i - 1], s, pattern.waits_s[i // count]
            )
        offsets.append(("F", s, now))
    now += work.stages[route[-1]].forward_s
    for i in reversed(range(len(route))):
        s = route[i]
        if i + 1 < len(route):
            leg = 2 * legs - 1 - i // count
            now += _hop(work, route[i + 1], s, pattern.waits_s[leg])
        offsets.append(("I", s, now))
        now += work.stages[s].backward_input_s
        offsets.append(("W", s, now + pattern.weight_wait_s))
    return offsets


def _hop(work: PipelineWork, a: int, b: int, wait_s: float) -> float:
    return 0.0 if work.stages[a].device == work.stages[b].device else work.send_s + wait_s
