"""List scheduling of pipeline operations: a device that is free runs the best operation at hand.

Input gradients come first, because others wait for them; forward passes next, as memory allows; weight
gradients, for which nobody waits, fill the gaps. `DispatchPolicy` sets how strict each of these is.
Whatever the policy, the result is feasible: memory that the oldest micro-batch needs to get through is kept
free.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

from planner.ir.pipeline_schedule import DeviceOps, PassKind, PipelineOp, PipelineWork

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPolicy:
    """Choices of the list scheduler.

    Parameters
    ----------
    overrun
        A weight gradient may start in a gap if it makes the next known arrival wait for at most this
        part of its own time.
    balance
        Whether a weight gradient may start in any gap that would make this device the most idle so far.
    forward_first
        Whether a forward pass goes before an input gradient as long as the device holds fewer forward passes
        than `ahead` times its distance from the end of the pipeline.
    ahead
        See `forward_first`.
    eager_weights
        Whether a device does pending weight gradients before forward passes.
    most_pending
        Most weight gradients that a device leaves pending before it prefers them to forward passes.
    memory_fraction
        Part of the memory limit that is used.
    slope
        If given, forward passes and input gradients strictly alternate once a device holds `slope`
        times its distance from the end of the pipeline, and what is next is waited for.
    full_start
        With a slope: whether the device that micro-batches enter by runs ahead as far as memory allows.
    """

    overrun: float = 0.0
    balance: bool = False
    forward_first: bool = False
    ahead: float = 1.0
    eager_weights: bool = False
    most_pending: int = 1 << 30
    memory_fraction: float = 1.0
    slope: float | None = None
    full_start: bool = False


def dispatch(work: PipelineWork, policy: DispatchPolicy) -> DeviceOps:
    """Return the orders that `policy` leads to.

    The memory of every device must suffice for one micro-batch at a time (`smallest_memory_bytes`).
    """
    return _Dispatcher(work, policy).run()


@dataclass(slots=True)
class _Device:
    """What a device is doing: its stages from the last of a route to the first, and what it holds."""

    stages: list[int]
    limit: float
    ahead: float
    warmup: int
    free_s: float = 0.0
    held: float = 0.0
    in_flight: int = 0
    pending: int = 0
    idle_s: float = 0.0
    ops: list[PipelineOp] = field(default_factory=list[PipelineOp])


class _Dispatcher:
    """State of one run."""

    def __init__(self, work: PipelineWork, policy: DispatchPolicy) -> None:
        self.work = work
        self.policy = policy
        num_stages, count = len(work.stages), work.num_microbatches
        self.depth = _depths(work)
        self.batches: list[list[int]] = [[] for _ in range(num_stages)]
        self.around: list[dict[int, tuple[int, int]]] = []
        links = {route: _links(route) for route in set(work.routes)}
        for m, route in enumerate(work.routes):
            self.around.append(links[route])
            for s in route:
                self.batches[s].append(m)
        self.ready_f = [[inf] * count for _ in range(num_stages)]
        self.ready_i = [[inf] * count for _ in range(num_stages)]
        for m, route in enumerate(work.routes):
            self.ready_f[route[0]][m] = 0.0
        self.next_f = [0] * num_stages
        self.next_i = [0] * num_stages
        self.next_w = [0] * num_stages
        self.devices = self._make_devices()
        self.wake: list[tuple[float, int]] = [(0.0, d) for d in range(work.num_devices)]

    def _make_devices(self) -> list[_Device]:
        work, deepest = self.work, max(self.depth, default=0)
        smallest = work.smallest_memory_bytes()
        devices: list[_Device] = []
        for d in range(work.num_devices):
            stages = sorted(
                (s for s, stage in enumerate(work.stages) if stage.device == d), key=lambda s: -self.depth[s]
            )
            limit = work.memory_limit_bytes[d]
            if limit < inf:
                limit = max(limit * self.policy.memory_fraction, smallest[d]) * (1 + _ROUNDING)
            shallow = min((self.depth[s] for s in stages), default=0)
            warmup = round((self.policy.slope or 0.0) * (deepest - shallow))
            if self.policy.full_start and shallow == 0:
                warmup = work.num_microbatches
            devices.append(
                _Device(
                    stages=stages,
                    limit=limit,
                    ahead=self.policy.ahead * (deepest - shallow) + 1,
                    warmup=warmup,
                )
            )
        return devices

    def run(self) -> DeviceOps:
        """Run all operations."""
        while self.wake:
            now, d = heapq.heappop(self.wake)
            device = self.devices[d]
            if device.free_s <= now:
                self._decide(device, d, now)
        return tuple(tuple(device.ops) for device in self.devices)

    def _decide(self, device: _Device, d: int, now: float) -> None:
        backward, backward_at = self._next_input(device, now)
        forward, forward_at, blocked = self._next_forward(device, now)
        backward, backward_at, forward, forward_at = self._alternate(
            device, (backward, backward_at), (forward, forward_at)
        )
        late = backward_at > now
        if forward >= 0 and forward_at <= now and (late or self._forward_first(device)):
            if not self._weights_first(device):
                self._start("F", forward, d, now)
                return
        elif not late:
            self._start("I", backward, d, now)
            return
        weight = self._oldest_weight(device)
        next_at = min(forward_at if forward >= 0 else inf, backward_at)
        if weight >= 0 and (
            blocked or self._weights_first(device) or self._fits(device, weight, now, next_at)
        ):
            self._start("W", weight, d, now)
        elif now < next_at < inf:
            heapq.heappush(self.wake, (next_at, d))

    def _alternate(
        self, device: _Device, backward: tuple[int, float], forward: tuple[int, float]
    ) -> tuple[int, float, int, float]:
        """Drop the pass whose turn it is not, where the policy asks for strict alternation."""
        if self.policy.slope is not None and backward[0] >= 0 and forward[0] >= 0:
            if device.in_flight > device.warmup:
                forward = (-1, inf)
            else:
                backward = (-1, inf)
        return backward[0], backward[1], forward[0], forward[1]

    def _fits(self, device: _Device, weight: int, now: float, next_at: float) -> bool:
        length = self.work.stages[weight].backward_weight_s
        if now + length * (1 - self.policy.overrun) <= next_at * (1 + _ROUNDING):
            return True
        idle_s = device.idle_s + next_at - device.free_s
        return self.policy.balance and idle_s > max(other.idle_s for other in self.devices)

    def _forward_first(self, device: _Device) -> bool:
        return self.policy.forward_first and device.in_flight < device.ahead

    def _weights_first(self, device: _Device) -> bool:
        return device.pending > 0 and (self.policy.eager_weights or device.pending > self.policy.most_pending)

    def _next_input(self, device: _Device, now: float) -> tuple[int, float]:
        """Return the stage whose next input gradient is to run and when it can; deeper stages first."""
        best, best_at = -1, inf
        for s in device.stages:
            if self.next_i[s] < self.next_f[s]:
                at = self.ready_i[s][self.batches[s][self.next_i[s]]]
                if at <= now:
                    return s, at
                if at < best_at:
                    best, best_at = s, at
        return best, best_at

    def _next_forward(self, device: _Device, now: float) -> tuple[int, float, bool]:
        """Return the stage to run forward next, when it can, and whether memory alone holds one back."""
        best, best_at, blocked = -1, inf, False
        for s in device.stages:
            if self.next_f[s] == len(self.batches[s]):
                continue
            m = self.batches[s][self.next_f[s]]
            at = self.ready_f[s][m]
            if at == inf:
                continue
            if (
                device.held + self.work.stages[s].activation_bytes + self._reserve(device, s, m)
                > device.limit
            ):
                blocked = blocked or at <= now
                continue
            if at <= now:
                return s, at, blocked
            if at < best_at:
                best, best_at = s, at
        return best, best_at, blocked

    def _reserve(self, device: _Device, stage: int, microbatch: int) -> float:
        """Return what the oldest micro-batch that is not through `device` yet still has to put there.

        `stage` and `microbatch` are the forward pass about to run.
        """
        if len(device.stages) == 1:
            return 0.0
        oldest = microbatch
        for s in device.stages:
            done = self.next_f[s] + (s == stage)
            if done < len(self.batches[s]):
                m = self.batches[s][done]
                if m < oldest and self._entered(device, m):
                    oldest = m
        need = 0.0
        for s in device.stages:
            place = self.next_f[s] + (s == stage)
            waits = place < len(self.batches[s]) and self.batches[s][place] <= oldest
            if waits and s in self.around[oldest]:
                need += self.work.stages[s].activation_bytes
        return need

    def _entered(self, device: _Device, microbatch: int) -> bool:
        first = next(s for s in reversed(device.stages) if s in self.around[microbatch])
        place = self.next_f[first]
        return place == len(self.batches[first]) or self.batches[first][place] > microbatch

    def _oldest_weight(self, device: _Device) -> int:
        best, oldest = -1, 1 << 60
        for s in device.stages:
            if self.next_w[s] < self.next_i[s]:
                m = self.batches[s][self.next_w[s]]
                if m < oldest:
                    best, oldest = s, m
        return best

    def _start(self, kind: PassKind, stage: int, d: int, now: float) -> None:
        device, spec = self.devices[d], self.work.stages[stage]
        pointer = {"F": self.next_f, "I": self.next_i, "W": self.next_w}[kind]
        m = self.batches[stage][pointer[stage]]
        pointer[stage] += 1
        if device.ops:
            device.idle_s += now - device.free_s
        device.ops.append(PipelineOp(kind=kind, stage=stage, microbatch=m))
        before, after = self.around[m][stage]
        if kind == "F":
            end = now + spec.forward_s
            device.held += spec.activation_bytes
            device.in_flight += 1
            if after >= 0:
                self._arrive(self.ready_f, d, after, m, end)
            else:
                self.ready_i[stage][m] = end
        elif kind == "I":
            end = now + spec.backward_input_s
            device.held -= spec.activation_bytes - spec.weight_activation_bytes
            device.in_flight -= 1
            device.pending += 1
            if before >= 0:
                self._arrive(self.ready_i, d, before, m, end)
        else:
            end = now + spec.backward_weight_s
            device.held -= spec.weight_activation_bytes
            device.pending -= 1
        device.free_s = end
        heapq.heappush(self.wake, (end, d))

    def _arrive(self, table: list[list[float]], d: int, stage: int, microbatch: int, end: float) -> None:
        other = self.work.stages[stage].device
        at = end if other == d else end + self.work.send_s
        table[stage][microbatch] = at
        heapq.heappush(self.wake, (at, other))


def _links(route: Sequence[int]) -> dict[int, tuple[int, int]]:
    padded = (-1, *route, -1)
    return {stage: (padded[i], padded[i + 2]) for i, stage in enumerate(route)}


def _depths(work: PipelineWork) -> list[int]:
    depth = [0] * len(work.stages)
    for route in set(work.routes):
        for place, stage in enumerate(route):
            depth[stage] = max(depth[stage], place)
    return depth
