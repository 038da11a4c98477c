"""Synthesis reaches known optima, holds its limits, is reproducible and says what is infeasible."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest

from planner.ir.pipeline_schedule import PipelineWork, uniform_work
from planner.ir.pipeline_text import print_schedule
from planner.search.schedule_bounds import lower_bound_s
from planner.search.schedule_cpsat import CpOptions
from planner.search.schedule_cyclic import find_blocks, unroll
from planner.search.schedule_synthesis import Synthesis, SynthesisOptions, TooLittleMemory, synthesise
from planner.simulate.pipeline_replay import check_times, replay
from planner.space.schedule_family import arrange
from planner.space.schedule_squeeze import SqueezePolicy, squeeze
from planner.space.schedule_timing import timed

Goal = Literal["makespan", "longest_stage"]
PROFILE_1_5B = (18.522, 18.086, 9.337)
PROFILE_6_2B = (29.718, 29.444, 19.927)


def _synthesise(work: PipelineWork, goal: Goal, effort: float = 1e5) -> Synthesis:
    found = synthesise(work, SynthesisOptions(goal=goal, effort=effort, proof_effort=0.02))
    assert isinstance(found, Synthesis)
    check_times(found.schedule)
    seen = replay(found.schedule)
    assert seen.makespan_s <= found.schedule.makespan_s() * (1 + 1e-9)
    assert found.bound_s <= found.value_s
    return found


@pytest.mark.parametrize(
    ("times", "send_s", "limit"), [(PROFILE_1_5B, 0.601, 12.0), (PROFILE_6_2B, 0.527, 10.0)]
)
def test_lower_bound_is_reached_where_memory_allows(
    times: tuple[float, float, float], send_s: float, limit: float
) -> None:
    work = uniform_work(
        num_devices=8, num_microbatches=24, pass_times_s=times, send_s=send_s, memory_limit_bytes=limit
    )
    found = _synthesise(work, "makespan")
    assert found.optimal
    assert found.value_s == pytest.approx(7 * (times[0] + send_s) + 24 * sum(times))


@pytest.mark.parametrize(
    ("p", "m", "times", "limit", "known"),
    [  # the best known values of these steps, from exact solvers or long searches
        (4, 8, (2.0, 2.0, 1.0), 2.0, 75.0),
        (4, 8, (1.0, 1.0, 1.0), 2.0, 41.0),
        (4, 8, (1.0, 1.0, 1.0), 3.0, 31.0),
        (4, 12, (2.0, 2.0, 1.0), 2.0, 111.0),
        (8, 16, (2.0, 2.0, 1.0), 4.0, 162.0),
        (8, 16, (2.0, 2.0, 1.0), 6.0, 146.0),
    ],
)
def test_below_the_memory_of_1f1b(
    p: int, m: int, times: tuple[float, float, float], limit: float, known: float
) -> None:
    work = uniform_work(num_devices=p, num_microbatches=m, pass_times_s=times, memory_limit_bytes=limit)
    assert _synthesise(work, "longest_stage", 5e4).value_s <= known


@pytest.mark.parametrize(
    ("times", "send_s", "limit", "bubble"),
    [  # zero-bubble heuristics at the same memory, from tables 5 and 9 of arXiv 2401.10241
        (PROFILE_1_5B, 0.601, 8.0, 0.1585),
        (PROFILE_1_5B, 0.601, 16.0, 0.0433),
        (PROFILE_6_2B, 0.527, 8.0, 0.1323),
        (PROFILE_6_2B, 0.527, 16.0, 0.0029),
    ],
)
def test_never_worse_than_published_zero_bubble(
    times: tuple[float, float, float], send_s: float, limit: float, bubble: float
) -> None:
    work = uniform_work(
        num_devices=8,
        num_microbatches=24,
        pass_times_s=times,
        send_s=send_s,
        memory_limit_bytes=limit,
        weight_memory_fraction=0.432,
    )
    found = _synthesise(work, "longest_stage", 3e5)
    assert 1 - 24 * sum(times) / found.value_s <= bubble + 5e-5


@pytest.mark.parametrize(("limit", "bubble"), [(8.0, 0.0), (5.0, 0.1056), (4.0, 0.1579), (3.5, 0.1579)])
def test_v_of_two_chunks(limit: float, bubble: float) -> None:
    work = arrange("v", num_devices=8, num_microbatches=24, pass_times_s=(2, 2, 2), memory_limit_bytes=limit)
    assert 1 - 144 / _synthesise(work, "longest_stage", 1e5).value_s <= bubble + 5e-5


def test_same_seed_same_schedule() -> None:
    work = uniform_work(
        num_devices=4, num_microbatches=9, pass_times_s=(3.1, 2.9, 2.3), send_s=0.2, memory_limit_bytes=3.0
    )
    options = SynthesisOptions(goal="longest_stage", effort=1e5, proof_effort=0.02)
    texts = set()
    for _ in range(2):
        found = synthesise(work, options)
        assert isinstance(found, Synthesis)
        texts.add(print_schedule(found.schedule))
    assert len(texts) == 1


def test_too_little_memory_is_an_answer() -> None:
    work = uniform_work(num_devices=3, num_microbatches=4, pass_times_s=(1, 1, 1), memory_limit_bytes=0.75)
    found = synthesise(work, SynthesisOptions())
    assert found == TooLittleMemory(needed_bytes=(1.0, 1.0, 1.0))
    just = replace(work, memory_limit_bytes=(1.0, 1.0, 1.0))
    assert isinstance(synthesise(just, SynthesisOptions(effort=1e4, proof_effort=0.1)), Synthesis)


def test_partial_paths() -> None:
    work = uniform_work(num_devices=4, num_microbatches=6, pass_times_s=(2, 2, 1), memory_limit_bytes=4.0)
    skipping = replace(work, routes=((0, 1, 2, 3), (0, 2, 3), (0, 1, 3)) * 2)
    found = _synthesise(skipping, "makespan", 5e4)
    assert found.value_s < _synthesise(work, "makespan", 5e4).value_s


def test_one_device_and_one_micro_batch() -> None:
    alone = uniform_work(num_devices=1, num_microbatches=3, pass_times_s=(1, 2, 3))
    assert _synthesise(alone, "makespan").value_s == 18.0
    single = uniform_work(num_devices=3, num_microbatches=1, pass_times_s=(1, 2, 3), send_s=0.5)
    # Three forwards, three input gradients, four sends, and the last weight gradient.
    assert _synthesise(single, "makespan").value_s == pytest.approx(3 + 6 + 2 + 3)


def test_interrupt_returns_the_incumbent() -> None:
    work = uniform_work(num_devices=4, num_microbatches=12, pass_times_s=(3, 2, 1), memory_limit_bytes=3)

    def interrupt(text: str) -> None:
        raise KeyboardInterrupt(text)

    found = synthesise(work, SynthesisOptions(goal="longest_stage", on_progress=interrupt))
    assert isinstance(found, Synthesis)
    assert found.interrupted
    replay(found.schedule)


def test_cyclic_block_unrolls_to_a_valid_step_of_any_length() -> None:
    for count in (6, 18):
        work = arrange(
            "v", num_devices=4, num_microbatches=count, pass_times_s=(2, 2, 2), memory_limit_bytes=2
        )
        block = find_blocks(work, "longest_stage", CpOptions(deterministic_limit=2.0))[0]
        orders = unroll(work, block)
        schedule = timed(work, orders, "cyclic", align_late=True)
        assert max(replay(schedule).peak_memory_bytes) <= 2
        # 6 slots per micro-batch and the 11 of the fill and drain of V-Min.
        assert schedule.longest_stage_s() <= 6 * count + 11
        filled = timed(work, squeeze(work, orders, SqueezePolicy()), "filled")
        assert max(replay(filled).peak_memory_bytes) <= 2


def test_bounds_grow_as_memory_shrinks() -> None:
    bounds = [
        lower_bound_s(
            uniform_work(num_devices=4, num_microbatches=8, pass_times_s=(2, 2, 1), memory_limit_bytes=limit),
            "makespan",
        )
        for limit in (math.inf, 4.0, 3.0, 2.0, 1.0)
    ]
    assert bounds == sorted(bounds)
    # One at a time: 8 round trips of 16, each with a W in between but the last, which ends with one.
    assert bounds[-1] == 8 * 16 + 8
