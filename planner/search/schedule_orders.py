"""Device orders of a pipeline schedule as integers: quick to change, to time and to check for memory."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork, memory_step_bytes
from planner.space.schedule_timing import compile_ops

ScheduleGoal = Literal["makespan", "longest_stage"]
_ROUNDING = 1e-9


@dataclass(slots=True, kw_only=True)
class Evaluation:
    """Heads and tails of every operation under given orders.

    `start` is the earliest start; `tail` the longest time from the end of an operation to the end that its
    path leads to, less the latest start of that end's device where the goal is the longest stage. A path
    is critical where start + duration + tail is `value`.
    """

    start: list[float]
    tail: list[float]
    value: float


class OrderSpace:
    """The operations of `device_ops`, numbered, and what constrains their order."""

    def __init__(self, work: PipelineWork, device_ops: DeviceOps, goal: ScheduleGoal) -> None:
        graph = compile_ops(work, device_ops)
        self.work = work
        self.goal = goal
        self.ops: list[PipelineOp] = [op for row in device_ops for op in row]
        self.device = [d for d, row in enumerate(device_ops) for _ in row]
        self.duration = graph.duration_s
        self.waits_for = graph.waits_for
        self.lag = graph.lag_s
        self.orders = [list(nodes) for nodes in graph.device_nodes]
        self.memory_step = [memory_step_bytes(work, op) for op in self.ops]
        self.limit = [limit * (1 + _ROUNDING) for limit in work.memory_limit_bytes]
        streams: dict[tuple[str, int, tuple[int, ...]], int] = {}
        self.stream = [
            streams.setdefault((op.kind, op.stage, work.routes[op.microbatch]), len(streams))
            for op in self.ops
        ]
        self.waiters: list[list[int]] = [[] for _ in self.ops]
        for node, other in enumerate(self.waits_for):
            if other >= 0:
                self.waiters[other].append(node)

    def device_ops(self, orders: list[list[int]]) -> DeviceOps:
        """Return `orders` in the IR's form."""
        return tuple(tuple(self.ops[n] for n in row) for row in orders)

    def evaluate(self, orders: list[list[int]]) -> Evaluation | None:
        """Return heads, tails and value, or None where the orders deadlock."""
        start, sequence = self._starts(orders)
        if len(sequence) < len(self.ops):
            return None
        following = [-1] * len(self.ops)
        for row in orders:
            for a, b in pairwise(row):
                following[a] = b
        offset = [0.0] * len(orders)
        if self.goal == "longest_stage":
            ends = [start[row[-1]] + self.duration[row[-1]] if row else 0.0 for row in orders]
            latest = self._backward(orders, sequence, following, [-e for e in ends])
            offset = [latest[row[0]] + self.duration[row[0]] if row else 0.0 for row in orders]
        tail = self._backward(orders, sequence, following, offset)
        value = max(start[n] + self.duration[n] + tail[n] for row in orders if row for n in row[-1:])
        return Evaluation(start=start, tail=tail, value=value)

    def _starts(self, orders: list[list[int]]) -> tuple[list[float], list[int]]:
        duration, waits_for, lag = self.duration, self.waits_for, self.lag
        start = [0.0] * len(duration)
        end = [-1.0] * len(duration)
        at = [0] * len(orders)
        free = [0.0] * len(orders)
        waiting: dict[int, int] = {}
        sequence: list[int] = []
        runnable = list(range(len(orders)))
        while runnable:
            d = runnable.pop()
            row, place, now = orders[d], at[d], free[d]
            while place < len(row):
                node = row[place]
                other = waits_for[node]
                if other >= 0:
                    arrival = end[other]
                    if arrival < 0:
                        waiting[other] = d
                        break
                    arrival += lag[node]
                    now = max(now, arrival)
                start[node] = now
                now += duration[node]
                end[node] = now
                sequence.append(node)
                if node in waiting:
                    runnable.append(waiting.pop(node))
                place += 1
            at[d], free[d] = place, now
        return start, sequence

    def _backward(
        self, orders: list[list[int]], sequence: list[int], following: list[int], offset: list[float]
    ) -> list[float]:
        """Return for each operation the longest way from its end to the end of a device, plus that offset."""
        duration, waits_for, lag = self.duration, self.waits_for, self.lag
        tail = [float("-inf")] * len(duration)
        for d, row in enumerate(orders):
            if row:
                tail[row[-1]] = offset[d]
        for node in reversed(sequence):
            own = tail[node]
            after = following[node]
            if after >= 0:
                through = tail[after] + duration[after]
                if through > own:
                    own = tail[node] = through
            other = waits_for[node]
            if other >= 0:
                through = own + duration[node] + lag[node]
                tail[other] = max(tail[other], through)
        return tail

    def memory_prefix(self, row: list[int]) -> list[float]:
        """Return what a device holds after each operation of `row`."""
        held = 0.0
        prefix: list[float] = []
        for node in row:
            held += self.memory_step[node]
            prefix.append(held)
        return prefix
