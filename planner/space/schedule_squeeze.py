"""Squeeze: fill the gaps of a pipeline schedule with operations that its order has for later.

Devices run in time. A device that is free looks down what is left of its order and runs the first operation
that is ready and may go ahead of those it overtakes: the rest, in its old order, must still fit the memory.
So the result never needs more than the limit, and never deadlocks if the orders did not.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import inf
from typing import Literal

from planner.errors import InputError
from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork, memory_step_bytes
from planner.space.schedule_timing import OpGraph, compile_ops, timed

_ROUNDING = 1e-9
REACH = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SqueezePolicy:
    """How far operations may go ahead.

    Parameters
    ----------
    overrun
        An operation may start in a gap if it makes the next known arrival wait for at most this part of
        its own time.
    weights_last
        Whether a weight gradient lets any other ready operation go first.
    reach
        How many operations of the order are looked at.
    ends
        Where gaps are filled: ``all`` over, in ``both`` ends (before the first micro-batch is done and after
        the last has begun on the first stage), or in the ``drain`` alone. A steady middle stays as it is.
    """

    overrun: float = 0.0
    weights_last: bool = True
    reach: int = REACH
    ends: Literal["all", "both", "drain"] = "all"


def squeeze(work: PipelineWork, device_ops: DeviceOps, policy: SqueezePolicy) -> DeviceOps:
    """Return orders in which gaps of `device_ops` are filled as `policy` says.

    Raises
    ------
    InputError
        If `device_ops` do not cover the work, deadlock or exceed the memory.
    """
    return _Squeezer(work, device_ops, policy).run()


def _steady(work: PipelineWork, device_ops: DeviceOps, policy: SqueezePolicy) -> tuple[float, float]:
    """Return from when until when nothing may overtake."""
    if policy.ends == "all":
        return inf, inf
    before = timed(work, device_ops, "before")
    first, last = work.routes[0][0], work.routes[-1][0]
    starts = {
        op: start
        for ops, row in zip(before.device_ops, before.start_s, strict=True)
        for op, start in zip(ops, row, strict=True)
    }
    done = starts[PipelineOp(kind="I", stage=first, microbatch=0)]
    begun = starts[PipelineOp(kind="F", stage=last, microbatch=len(work.routes) - 1)]
    return (done if policy.ends == "both" else -inf), begun


class _Squeezer:
    """State of one run; operations are numbered by their place in the given orders."""

    def __init__(self, work: PipelineWork, device_ops: DeviceOps, policy: SqueezePolicy) -> None:
        self.policy = policy
        self.ops = [op for row in device_ops for op in row]
        self.graph: OpGraph = compile_ops(work, device_ops)
        self.left = [list(nodes) for nodes in self.graph.device_nodes]
        self.step = [memory_step_bytes(work, op) for op in self.ops]
        self.limit = [limit * (1 + _ROUNDING) for limit in work.memory_limit_bytes]
        self.held = [0.0] * len(self.left)
        self.device = [d for d, nodes in enumerate(self.graph.device_nodes) for _ in nodes]
        self.stream = [(op.kind, op.stage) for op in self.ops]
        self.ready = [0.0 if other < 0 else inf for other in self.graph.waits_for]
        self.waiters: list[list[int]] = [[] for _ in self.ops]
        for node, other in enumerate(self.graph.waits_for):
            if other >= 0:
                self.waiters[other].append(node)
        self.free = [0.0] * len(self.left)
        self.wake = [(0.0, d) for d in range(len(self.left))]
        self.done: list[list[PipelineOp]] = [[] for _ in self.left]
        self.steady = _steady(work, device_ops, policy)

    def run(self) -> DeviceOps:
        """Run all operations."""
        while self.wake:
            now, d = heapq.heappop(self.wake)
            if self.free[d] <= now and self.left[d]:
                self._decide(d, now)
        if any(self.left):
            raise InputError("these orders deadlock or need more memory than there is")
        return tuple(tuple(row) for row in self.done)

    def _decide(self, d: int, now: float) -> None:
        if self.steady[0] <= now < self.steady[1]:
            self._go_on(d, now)
            return
        place, weight, next_at = self._scan(d, now)
        row = self.left[d]
        for choice in (place, weight):
            if choice < 0:
                continue
            node = row[choice]
            ends = now + self.graph.duration_s[node] * (1 - self.policy.overrun)
            if choice == 0 or ends <= next_at * (1 + _ROUNDING):
                self._start(d, choice, now)
                return
        if now < next_at < inf:
            heapq.heappush(self.wake, (next_at, d))

    def _go_on(self, d: int, now: float) -> None:
        """Run what is next in the order, or wait for it."""
        node = self.left[d][0]
        if self.ready[node] <= now and self.held[d] + self.step[node] <= self.limit[d]:
            self._start(d, 0, now)
        elif now < self.ready[node] < inf:
            heapq.heappush(self.wake, (self.ready[node], d))

    def _scan(self, d: int, now: float) -> tuple[int, int, float]:
        """Return the place of the first ready operation, of the first ready W, and the next known arrival."""
        row, held, limit = self.left[d], self.held[d], self.limit[d]
        peak, overtaken = held, held
        streams: set[tuple[str, int]] = set()
        weight, next_at = -1, inf
        for place in range(min(len(row), self.policy.reach)):
            node = row[place]
            step, at = self.step[node], self.ready[node]
            stream = self.stream[node]
            if stream not in streams and peak + step <= limit:
                if at > now:
                    next_at = min(next_at, at) if stream[0] != "W" else next_at
                elif stream[0] == "W" and self.policy.weights_last:
                    weight = place if weight < 0 else weight
                else:
                    return place, weight, next_at
            streams.add(stream)
            overtaken += step
            peak = max(peak, overtaken)
        return -1, weight, next_at

    def _start(self, d: int, place: int, now: float) -> None:
        node = self.left[d].pop(place)
        self.done[d].append(self.ops[node])
        self.held[d] += self.step[node]
        end = now + self.graph.duration_s[node]
        self.free[d] = end
        heapq.heappush(self.wake, (end, d))
        for waiter in self.waiters[node]:
            at = self.ready[waiter] = end + self.graph.lag_s[waiter]
            heapq.heappush(self.wake, (at, self.device[waiter]))
