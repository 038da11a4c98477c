"""Schedules on a V by rounds: in each round every device takes one gradient and one forward pass.

After a warm-up that brings all devices to the same number of forward passes, rounds keep them in step:
whoever is next waits for its turn, and weight gradients fill what waiting there is. A device whose idle
time is beyond that of the idlest device of an earlier attempt fills gaps even where that makes others wait
a little.

Source: the rounds and the idea of approved idle time are those of ZB-V (Qi et al., arXiv 2405.15362).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineWork
from planner.space.schedule_family import require_layout

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundsPolicy:
    """Whether gaps before forward passes and before gradients of chunk 1 are filled beyond their length."""

    fill_forward: bool = True
    fill_backward: bool = True


class OutOfMemoryError(Exception):
    """The memory does not suffice for rounds."""


def rounds(work: PipelineWork, policy: RoundsPolicy) -> DeviceOps | None:
    """Return orders made by rounds, or None where the memory does not suffice for them.

    Attempts go on, each allowed the idle time of the last, as long as the idlest device gets better.

    Raises
    ------
    InputError
        If the layout is not a V.
    """
    require_layout(work, "a schedule by rounds", 2, v_shape=True)
    best: _Attempt | None = None
    while True:
        attempt = _Attempt(work, policy, best.idle if best else None)
        try:
            attempt.run()
        except OutOfMemoryError:
            break
        if best is not None and max(attempt.idle) >= max(best.idle):
            break
        best = attempt
    return None if best is None else tuple(tuple(lane.ops) for lane in best.lanes)


@dataclass(slots=True)
class _Lane:
    """One device: its two stages, the next micro-batch of every kind, and pending weight gradients."""

    stages: tuple[int, int]
    now: float = 0.0
    held: float = 0.0
    forward: list[int] = field(default_factory=lambda: [0, 0])
    backward: list[int] = field(default_factory=lambda: [0, 0])
    pending: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ops: list[PipelineOp] = field(default_factory=list[PipelineOp])


class _Attempt:
    def __init__(self, work: PipelineWork, policy: RoundsPolicy, approved: list[float] | None) -> None:
        count = work.num_devices
        self.work, self.policy, self.count = work, policy, work.num_microbatches
        self.lanes = [_Lane(stages=(d, 2 * count - 1 - d)) for d in range(count)]
        self.end_f = [[-1.0] * self.count for _ in work.stages]
        self.end_i = [[-1.0] * self.count for _ in work.stages]
        self.idle = [0.0] * count
        self.limit = [limit * (1 + _ROUNDING) for limit in work.memory_limit_bytes]
        self.allowance = [max(approved) - a for a in approved] if approved else [0.0] * count

    def run(self) -> None:
        """Run warm-up, rounds and what is left of the weight gradients."""
        self._warm_up()
        self._level()
        for _ in range(2 * self.count):
            for d, chunk in self._backward_turns():
                self._backward(d, chunk)
            for d, lane in enumerate(self.lanes):
                if lane.forward[1] < self.count:
                    self._forward_turn(d)
        for d, lane in enumerate(self.lanes):
            while lane.pending:
                self._weight(d)

    def _warm_up(self) -> None:
        """Send the first micro-batch to the end of the V; until it returns, forward passes as they fit."""
        last = len(self.lanes) - 1
        for d in range(last + 1):
            self._forward(d, 0)
        for d in range(last, -1, -1):
            lane = self.lanes[d]
            if d < last:
                arrival = self.end_f[self.lanes[d + 1].stages[1]][0] + self.work.send_s
                half = self.work.stages[d].activation_bytes
                length = self.work.stages[d].forward_s
                while (
                    lane.held + half * (2 + 2 * d) <= self.limit[d]
                    and lane.now + length <= arrival
                    and lane.forward[0] < self.count
                ):
                    for e in range(d + 1):
                        self._forward(e, 0)
            self._forward(d, 1)

    def _level(self) -> None:
        """Bring every device to as many forward passes as the one before it."""
        chunk, last = 0, len(self.lanes) - 1
        for d in range(1, last + 1):
            before, lane = self.lanes[d - 1], self.lanes[d]
            while (
                sum(lane.forward) < sum(before.forward) or lane.forward[1] <= before.forward[1] < self.count
            ):
                for e in range(last, d - 1, -1):
                    if self.lanes[e].forward[chunk] < self.count:
                        self._forward(e, chunk)
                chunk = 1 - chunk

    def _backward_turns(self) -> list[tuple[int, int]]:
        """Return (device, chunk) of this round's gradients: those on their way home first."""
        home: list[tuple[int, int]] = []
        out: list[tuple[int, int]] = []
        last = len(self.lanes) - 1
        for d, lane in enumerate(self.lanes):
            back, deep = lane.backward
            waiting = back < deep and (
                d == last or deep >= self.count or self.end_i[self.lanes[d + 1].stages[0]][back] >= 0
            )
            if waiting:
                home.append((d, 0))
            else:
                out.append((d, 1))
        return home[::-1] + out

    def _forward_turn(self, d: int) -> None:
        lane, last = self.lanes[d], len(self.lanes) - 1
        returned = lane.forward[1] < lane.forward[0] and (
            d == last or self.end_f[self.lanes[d + 1].stages[1]][lane.forward[1]] >= 0
        )
        if returned:
            self._forward(d, 1, fill=True)
        elif lane.forward[0] < self.count and (
            d == 0 or self.end_f[self.lanes[d - 1].stages[0]][lane.forward[0]] >= 0
        ):
            self._forward(d, 0, fill=True)

    def _forward(self, d: int, chunk: int, *, fill: bool = False) -> None:
        lane = self.lanes[d]
        stage, m = lane.stages[chunk], lane.forward[chunk]
        before = stage - 1
        arrival = 0.0 if stage == 0 else self._arrival(self.end_f, before, d, m)
        need = self.work.stages[stage].activation_bytes
        while lane.held + need > self.limit[d]:
            if not lane.pending:
                raise OutOfMemoryError
            self._weight(d)
        if fill:
            self._fill(d, arrival, beyond=self.policy.fill_forward)
        self._put(d, PipelineOp(kind="F", stage=stage, microbatch=m), arrival, need)
        lane.forward[chunk] += 1
        self.end_f[stage][m] = lane.now

    def _backward(self, d: int, chunk: int) -> None:
        lane, spec = self.lanes[d], self.work.stages
        stage, m = lane.stages[chunk], lane.backward[chunk]
        if m >= self.count:
            return
        after = stage + 1
        arrival = lane.now
        if after < len(spec):
            arrival = self._arrival(self.end_i, after, d, m)
        self._fill(d, arrival, beyond=chunk == 0 or self.policy.fill_backward)
        freed = spec[stage].activation_bytes - spec[stage].weight_activation_bytes
        self._put(d, PipelineOp(kind="I", stage=stage, microbatch=m), arrival, -freed)
        lane.backward[chunk] += 1
        lane.pending.append((stage, m))
        self.end_i[stage][m] = lane.now

    def _arrival(self, ends: list[list[float]], stage: int, d: int, m: int) -> float:
        end = ends[stage][m]
        if end < 0:
            raise OutOfMemoryError
        return end if self.work.stages[stage].device == d else end + self.work.send_s

    def _fill(self, d: int, arrival: float, *, beyond: bool) -> None:
        """Do weight gradients until `arrival`; one more where the idle time would pass what is approved."""
        lane = self.lanes[d]
        while lane.pending:
            if arrival < lane.now + self.work.stages[lane.pending[0][0]].backward_weight_s:
                break
            self._weight(d)
        approved = max(*self.idle, self.allowance[d])
        if beyond and lane.pending and arrival - lane.now > approved - self.idle[d]:
            self._weight(d)

    def _weight(self, d: int) -> None:
        stage, m = self.lanes[d].pending.pop(0)
        freed = self.work.stages[stage].weight_activation_bytes
        self._put(d, PipelineOp(kind="W", stage=stage, microbatch=m), 0.0, -freed)

    def _put(self, d: int, op: PipelineOp, arrival: float, change: float) -> None:
        lane = self.lanes[d]
        if arrival > lane.now:
            if lane.ops:
                self.idle[d] += arrival - lane.now
            lane.now = arrival
        lane.now += self.work.duration_s(op)
        lane.held += change
        lane.ops.append(op)
