"""Synthesised pipeline schedules against all schedules of tiny steps, enumerated."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import permutations, product
from typing import Literal

import pytest

from planner.ir.pipeline_schedule import PipelineOp, PipelineWork, peak_memory_bytes, uniform_work
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_cpsat import CpOptions, solve
from planner.search.schedule_synthesis import Synthesis, SynthesisOptions, synthesise
from planner.simulate.pipeline_replay import check_times, replay
from planner.space.schedule_timing import compile_ops, earliest_starts

Goal = Literal["makespan", "longest_stage"]


@cache
def _merges(counts: tuple[int, int, int], total: int) -> tuple[str, ...]:
    """All orders of F, I, W (each first in, first out) of one stage after `counts` of each are done."""
    f, i, w = counts
    if w == total:
        return ("",)
    found: list[str] = []
    if f < total:
        found += ["F" + rest for rest in _merges((f + 1, i, w), total)]
    if i < f:
        found += ["I" + rest for rest in _merges((f, i + 1, w), total)]
    if w < i:
        found += ["W" + rest for rest in _merges((f, i, w + 1), total)]
    return tuple(found)


def _ops(stage: int, kinds: str) -> tuple[PipelineOp, ...]:
    seen = {"F": 0, "I": 0, "W": 0}
    ops: list[PipelineOp] = []
    for kind in kinds:
        ops.append(PipelineOp(kind=kind, stage=stage, microbatch=seen[kind]))  # type: ignore[arg-type]
        seen[kind] += 1
    return tuple(ops)


def _longest_cycle_mean(spans: list[list[float]]) -> float:
    """Least period of a step repeated without a barrier: the largest mean over cycles of devices."""
    count = len(spans)
    best = max(spans[d][d] for d in range(count))
    if count > 1:
        best = max(best, *((spans[a][b] + spans[b][a]) / 2 for a in range(count) for b in range(a)))
    return best


def _brute(work: PipelineWork, goal: Goal) -> float:
    """Return the best value over all orders. Without a barrier the first operation of a device may wait."""
    best = float("inf")
    rows = [_merges((0, 0, 0), work.num_microbatches) for _ in range(work.num_devices)]
    for choice in product(*rows):
        orders = tuple(_ops(d, kinds) for d, kinds in enumerate(choice))
        if any(
            peak_memory_bytes(work, ops) > m for ops, m in zip(orders, work.memory_limit_bytes, strict=True)
        ):
            continue
        graph = compile_ops(work, orders)
        found = earliest_starts(graph)
        if found is None:
            continue
        starts, _ = found
        ends = [starts[nodes[-1]] + graph.duration_s[nodes[-1]] for nodes in graph.device_nodes]
        if goal == "makespan":
            best = min(best, max(ends))
            continue
        best = min(best, _least_span(graph, ends))
    return best


def _least_span(graph: object, ends: list[float]) -> float:
    """Two devices: device 1 may start late, by a wait that trades its span against that of device 0."""
    from planner.space.schedule_timing import OpGraph

    assert isinstance(graph, OpGraph)
    first = graph.device_nodes[1].start
    release = [0.0, earliest_starts(graph)[0][first]]  # type: ignore[index]
    best = float("inf")
    for extra in [k / 4 for k in range(60)]:
        waits = _starts_with_release(graph, first, release[1] + extra)
        spans = [
            waits[nodes[-1]] + graph.duration_s[nodes[-1]] - waits[nodes[0]] for nodes in graph.device_nodes
        ]
        best = min(best, max(spans))
    return best


def _starts_with_release(graph: object, node: int, release: float) -> list[float]:
    from planner.space.schedule_timing import OpGraph

    assert isinstance(graph, OpGraph)
    _, order = earliest_starts(graph)  # type: ignore[misc]
    firsts = {nodes.start for nodes in graph.device_nodes}
    starts = [0.0] * len(order)
    for n in order:
        at = release if n == node else 0.0
        if n not in firsts:
            at = max(at, starts[n - 1] + graph.duration_s[n - 1])
        other = graph.waits_for[n]
        if other >= 0:
            at = max(at, starts[other] + graph.duration_s[other] + graph.lag_s[n])
        starts[n] = at
    return starts


CASES = [
    ((1.0, 1.0, 1.0), 0.0, 1.0),
    ((1.0, 1.0, 1.0), 0.0, 2.0),
    ((2.0, 2.0, 1.0), 0.5, 1.5),
    ((2.0, 2.0, 1.0), 0.5, 3.0),
    ((1.0, 3.0, 2.0), 0.25, 2.0),
]


@pytest.mark.parametrize("goal", ["makespan", "longest_stage"])
@pytest.mark.parametrize(("times", "send_s", "limit"), CASES)
def test_as_good_as_enumeration(
    goal: Goal, times: tuple[float, float, float], send_s: float, limit: float
) -> None:
    work = uniform_work(
        num_devices=2, num_microbatches=3, pass_times_s=times, send_s=send_s, memory_limit_bytes=limit
    )
    best = _brute(work, goal)
    found = synthesise(work, SynthesisOptions(goal=goal, effort=2e4))
    assert isinstance(found, Synthesis)
    check_times(found.schedule)
    replay(found.schedule)
    assert found.value_s == pytest.approx(best)
    assert found.bound_s <= best + 1e-9
    assert lower_bound_s(work, goal) <= best + 1e-9
    assert found.optimal


def test_unequal_stages_as_good_as_enumeration() -> None:
    even = uniform_work(
        num_devices=2, num_microbatches=3, pass_times_s=(2.0, 2.0, 1.0), send_s=0.5, memory_limit_bytes=2.0
    )
    slow = replace(even.stages[1], forward_s=3.0, backward_weight_s=2.5, activation_bytes=0.75)
    work = replace(even, stages=(even.stages[0], slow))
    best = _brute(work, "makespan")
    found = synthesise(work, SynthesisOptions(effort=2e4))
    assert isinstance(found, Synthesis)
    assert found.value_s == pytest.approx(best)
    assert found.optimal


def test_constraint_programme_bounds_hold_for_times_that_are_no_whole_steps() -> None:
    work = uniform_work(
        num_devices=2,
        num_microbatches=3,
        pass_times_s=(2.00137, 2.17713, 1.31071),
        send_s=0.5071,
        memory_limit_bytes=2.0,
    )
    best = _brute(work, "makespan")
    found = solve(work, "makespan", None, CpOptions(deterministic_limit=5.0))
    assert found.schedule is not None
    assert best - 1e-9 <= found.schedule.makespan_s() <= best * 1.02
    assert best * 0.97 <= found.bound_s <= best + 1e-9


@pytest.mark.parametrize("limit", [1.0, 2.0])
def test_partial_paths_may_overtake_each_other(limit: float) -> None:
    """Micro-batches of different paths are not interchangeable: all orders of the shared stage are tried."""
    base = uniform_work(num_devices=3, num_microbatches=2, pass_times_s=(1.0, 2.0, 1.0))
    stages = (
        replace(base.stages[0], forward_s=5.0),
        base.stages[1],
        replace(base.stages[2], backward_input_s=4.0),
    )
    work = replace(base, stages=stages, routes=((0, 2), (1, 2)), memory_limit_bytes=(limit,) * 3)
    best = float("inf")
    shared = [[PipelineOp(kind=k, stage=2, microbatch=m) for k in ("F", "I", "W")] for m in (0, 1)]
    for picks in set(permutations((0, 0, 0, 1, 1, 1))):
        left = [iter(row) for row in shared]
        row = tuple(next(left[m]) for m in picks)
        alone = [tuple(PipelineOp(kind=k, stage=s, microbatch=s) for k in ("F", "I", "W")) for s in (0, 1)]
        found = earliest_starts(compile_ops(work, (*alone, row)))
        if found is None or peak_memory_bytes(work, row) > limit:
            continue
        ops = (*alone[0], *alone[1], *row)
        best = min(best, max(found[0][n] + work.duration_s(op) for n, op in enumerate(ops)))
    seen = synthesise(work, SynthesisOptions(effort=1e4))
    assert isinstance(seen, Synthesis)
    assert seen.optimal
    assert seen.value_s == pytest.approx(best)
