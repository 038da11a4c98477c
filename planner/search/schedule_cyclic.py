"""Cyclic pipeline schedules: one block of operations, repeated every period.

Each stage has one F, one I and one W per period; micro-batch m runs them m periods after micro-batch 0. The
size of the programme is that of one micro-batch, whatever their number. For a given period the offsets that
end the whole step soonest are found; memory counts the copies of each activation that are alive together
(lifetimes wrap around the period). Unrolled, the block gives device orders; warm-up and drain, where the
pattern leaves gaps, are then improved by others. Times are rounded to a few steps: what counts here is the
pattern, which is re-timed with the true ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import ceil, inf
from typing import Any, cast

from ortools.sat.python import cp_model

from planner.ir.pipeline_schedule import DeviceOps, PassKind, PipelineOp, PipelineWork
from planner.search.scaling import choose_scale
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_cpsat import CpOptions, pass_times_s, quantised
from planner.search.schedule_orders import ScheduleGoal

MOST_TIME_STEPS = 6
# The stubs leave these two untyped.
_total = cast(
    "Callable[[Sequence[cp_model.LinearExprT]], cp_model.LinearExpr]", cast("Any", cp_model.LinearExpr).sum
)
_KINDS: tuple[PassKind, ...] = ("F", "I", "W")
_Key = tuple[PassKind, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CyclicBlock:
    """Offsets of the operations of micro-batch 0 and the period, in steps; `proven` if none is better."""

    period: int
    offsets: dict[tuple[PassKind, int], int]
    total: int
    proven: bool


def find_blocks(
    work: PipelineWork, goal: ScheduleGoal, options: CpOptions, *, most_blocks: int = 2
) -> list[CyclicBlock]:
    """Return blocks for the shortest periods that the memory allows, the one with the soonest end first.

    Only for work whose micro-batches all take one route; none is returned for other work. The deterministic
    limit of `options` is for all periods together.
    """
    if len(set(work.routes)) != 1:
        return []
    coarse, _ = quantised(work, choose_scale(pass_times_s(work), most_steps=MOST_TIME_STEPS), nearest=True)
    one = coarse.routes[0]
    least = max(
        sum(coarse.stages[s].work_s for s in one if coarse.stages[s].device == d)
        for d in range(coarse.num_devices)
    )
    least = max(least, _memory_period(coarse))
    blocks: list[CyclicBlock] = []
    periods = sorted({round(least * factor) for factor in (1, 1.125, 1.25, 1.5)} | {ceil(least)})
    share = options.deterministic_limit / len(periods)
    for period in periods:
        if period < least:
            continue
        if options.on_progress is not None:
            options.on_progress(f"cyclic block with period {period}")
        found = _Block(coarse, goal, period).solve(options, share)
        if found is not None:
            blocks.append(found)
        if len(blocks) >= most_blocks:
            break
    return sorted(blocks, key=lambda block: block.total)


def _memory_period(work: PipelineWork) -> int:
    """Return a period below which some device's activations cannot fit (area bound per micro-batch)."""
    total = lower_bound_s(work, "longest_stage")
    return ceil(total / work.num_microbatches * (1 - 1e-9)) if total < inf else 1


def unroll(work: PipelineWork, block: CyclicBlock) -> DeviceOps:
    """Return device orders in which every micro-batch follows `block`, one period after the one before."""
    rows: list[list[tuple[int, int, int, PipelineOp]]] = [[] for _ in range(work.num_devices)]
    rank = {"I": 0, "W": 1, "F": 2}
    for (kind, stage), offset in block.offsets.items():
        row = rows[work.stages[stage].device]
        for m in range(work.num_microbatches):
            op = PipelineOp(kind=kind, stage=stage, microbatch=m)
            row.append((offset + m * block.period, int(work.duration_s(op) > 0), rank[kind], op))
    return tuple(tuple(entry[3] for entry in sorted(row)) for row in rows)


class _Block:
    """The constraint programme of one block of whole-number `work`."""

    def __init__(self, work: PipelineWork, goal: ScheduleGoal, period: int) -> None:
        self.work = work
        self.period = period
        self.route = work.routes[0]
        self.model = cp_model.CpModel()
        longest = sum(work.stages[s].work_s for s in self.route) + 2 * work.send_s * len(self.route)
        self.horizon = round(longest) + period * (len(self.route) + 4)
        keys: list[_Key] = [(kind, s) for s in self.route for kind in _KINDS]
        self.length = {
            key: round(work.duration_s(PipelineOp(kind=key[0], stage=key[1], microbatch=0))) for key in keys
        }
        self.offset = {key: self.model.new_int_var(0, self.horizon, f"{key[1]}{key[0]}") for key in keys}
        self.model.add(self.offset["F", self.route[0]] == 0)
        self.by_device: list[list[_Key]] = [
            [k for k in keys if work.stages[k[1]].device == d] for d in range(work.num_devices)
        ]
        self._dependencies()
        self._one_at_a_time()
        self._memory()
        self._objective(goal)

    def _end(self, key: _Key) -> cp_model.LinearExpr:
        return self.offset[key] + self.length[key]

    def _dependencies(self) -> None:
        """offset(op) >= end(what it waits for) + send."""
        add, work = self.model.add, self.work
        for a, b in pairwise(self.route):
            lag = 0 if work.stages[a].device == work.stages[b].device else round(work.send_s)
            add(self.offset["F", b] >= self._end(("F", a)) + lag)
            add(self.offset["I", a] >= self._end(("I", b)) + lag)
        last = self.route[-1]
        add(self.offset["I", last] >= self._end(("F", last)))
        for s in self.route:
            add(self.offset["W", s] >= self._end(("I", s)))

    def _one_at_a_time(self) -> None:
        """Modulo the period: length(a) <= offset(b) - offset(a) - k period <= period - length(b)."""
        laps = self.horizon // self.period + 1
        for row in self.by_device:
            for a, b in combinations(row, 2):
                if not self.length[a] or not self.length[b]:
                    continue
                lap = self.model.new_int_var(-laps, laps, f"lap {a} {b}")
                apart = self.offset[b] - self.offset[a] - self.period * lap
                self.model.add(apart >= self.length[a])
                self.model.add(apart <= self.period - self.length[b])

    def _memory(self) -> None:
        """At each start of a forward pass: bytes times live copies, over the device's activations, fit."""
        for row, limit in zip(self.by_device, self.work.memory_limit_bytes, strict=True):
            stages = [s for kind, s in row if kind == "F"]
            if limit == inf:
                continue
            for now in stages:
                terms: list[cp_model.LinearExprT] = []
                for s in stages:
                    spec = self.work.stages[s]
                    weight = round(spec.weight_activation_bytes)
                    first = round(spec.activation_bytes) - weight
                    if first:
                        terms.append(first * self._live(now, s, "I"))
                    if weight:
                        terms.append(weight * self._live(now, s, "W"))
                if terms:
                    self.model.add(_total(terms) <= round(limit))

    def _live(self, now: int, stage: int, until: PassKind) -> cp_model.LinearExpr:
        """Return the copies of `stage`'s activation between F and `until` when F of stage `now` starts.

        floor((t - begin) / period) - floor((t - end) / period), each floor bounded from the side that counts.
        """
        t = self.offset["F", now]
        most = self.horizon // self.period + 2
        begun = self.model.new_int_var(-most, most, f"begun {now} {stage} {until}")
        ended = self.model.new_int_var(-most, most, f"ended {now} {stage} {until}")
        self.model.add(self.period * begun >= t - self.offset["F", stage] - self.period + 1)
        self.model.add(self.period * ended <= t - self._end((until, stage)))
        return begun - ended

    def _objective(self, goal: ScheduleGoal) -> None:
        """Minimise the end of the last operation, or the longest span of a device, of one micro-batch."""
        self.span = self.model.new_int_var(0, 2 * self.horizon, "span")
        for d, row in enumerate(self.by_device):
            origin: cp_model.IntVar | int = 0
            if goal == "longest_stage":
                origin = self.model.new_int_var(0, self.horizon, f"origin {d}")
                for kind, s in row:
                    if kind == "F":
                        self.model.add(origin <= self.offset["F", s])
            for kind, s in row:
                if kind == "W":
                    self.model.add(self.span >= self._end(("W", s)) - origin)
        self.model.minimize(self.span)

    def solve(self, options: CpOptions, share: float) -> CyclicBlock | None:
        """Return the best block found within `share` of deterministic time, or None."""
        solver = cp_model.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = options.seed
        solver.parameters.max_deterministic_time = share
        solver.parameters.max_time_in_seconds = options.time_limit_s
        status = solver.solve(self.model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return None
        return CyclicBlock(
            period=self.period,
            offsets={key: solver.value(var) for key, var in self.offset.items()},
            total=self.period * (self.work.num_microbatches - 1) + round(solver.objective_value),
            proven=status == cp_model.OPTIMAL,
        )
