"""Parts of schedule construction: whatever the policy, what comes out runs and fits."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InputError
from planner.ir.pipeline_schedule import uniform_work
from planner.simulate.pipeline_replay import check_times, replay
from planner.space.schedule_dispatch import DispatchPolicy, dispatch
from planner.space.schedule_extension import extend
from planner.space.schedule_family import FAMILIES, arrange
from planner.space.schedule_pattern import Pattern, pattern_orders
from planner.space.schedule_rounds import RoundsPolicy, rounds
from planner.space.schedule_squeeze import SqueezePolicy, squeeze
from planner.space.schedule_timing import timed

TIMES = st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 3.7]) for _ in range(3)]).filter(lambda t: sum(t) > 0)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    layout=st.sampled_from(["chain", "v", "loop"]),
    size=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    times=TIMES,
    limit=st.sampled_from([1.0, 1.3, 2.0, 3.5, math.inf]),
    slope=st.sampled_from([None, 0.5, 1.0, 2.1]),
    manner=st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()),
)
def test_list_scheduling_always_gives_a_feasible_schedule(
    layout: str,
    size: tuple[int, int],
    times: tuple[float, float, float],
    limit: float,
    slope: float | None,
    manner: tuple[float, bool],
) -> None:
    overrun, eager = manner
    work = arrange(
        layout,  # type: ignore[arg-type]
        num_devices=size[0],
        num_microbatches=size[1],
        pass_times_s=times,
        send_s=0.3,
        num_chunks=2,
        memory_limit_bytes=limit,
    )
    policy = DispatchPolicy(slope=slope, overrun=overrun, eager_weights=eager, forward_first=eager)
    for late in (False, True):
        schedule = timed(work, dispatch(work, policy), "list", align_late=late)
        replay(schedule)
        check_times(schedule)
    filled = timed(work, squeeze(work, schedule.device_ops, SqueezePolicy(overrun=overrun)), "filled")
    replay(filled)


def test_squeeze_refuses_what_does_not_fit() -> None:
    work = uniform_work(num_devices=2, num_microbatches=4, pass_times_s=(1, 1, 1), memory_limit_bytes=2)
    with pytest.raises(InputError, match="memory"):
        squeeze(work, FAMILIES.get("gpipe").build(work), SqueezePolicy())


@pytest.mark.parametrize(("limit", "idle"), [(8.0, 0.0403), (9.0, None), (12.0, None)])
def test_rounds_on_a_v(limit: float, idle: float | None) -> None:
    times = (29.718, 29.444, 19.926)
    work = arrange(
        "v",
        num_devices=8,
        num_microbatches=24,
        pass_times_s=times,
        send_s=0.527,
        weight_memory_fraction=0.432,
        memory_limit_bytes=limit,
    )
    orders = rounds(work, RoundsPolicy())
    assert orders is not None
    schedule = timed(work, orders, "rounds", align_late=True)
    replay(schedule)
    if idle is not None:
        assert 1 - 24 * sum(times) / schedule.longest_stage_s() == pytest.approx(idle, abs=6e-5)


def test_rounds_need_memory() -> None:
    work = arrange("v", num_devices=8, num_microbatches=24, pass_times_s=(2, 2, 2), memory_limit_bytes=5)
    assert rounds(work, RoundsPolicy()) is None


@settings(max_examples=30, deadline=None, derandomize=True)
@given(waits=st.tuples(*[st.floats(0, 5) for _ in range(4)]), late=st.floats(0, 9), p=st.integers(2, 4))
def test_patterns_never_deadlock(waits: tuple[float, ...], late: float, p: int) -> None:
    work = arrange("v", num_devices=p, num_microbatches=5, pass_times_s=(2, 3, 1), send_s=0.25)
    orders = pattern_orders(work, Pattern(waits_s=waits, weight_wait_s=late, period_s=6.0))
    schedule = timed(work, orders, "pattern")
    replay(schedule)
    assert sum(map(len, schedule.device_ops)) == 3 * 2 * p * 5


@pytest.mark.parametrize("block", [1, 2, 3])
@pytest.mark.parametrize(("name", "slack"), [("1f1b", 0.0), ("zb-h1", 0.0), ("zb-v", 12.0)])
def test_extension_keeps_the_bubble(name: str, slack: float, block: int) -> None:
    family = FAMILIES.get(name)
    short = arrange(family.layout, num_devices=4, num_microbatches=16, pass_times_s=(2, 2, 2))
    steady = timed(short, family.build(short), name)
    long = replace(short, routes=short.routes[:1] * 41)
    seen = replay(timed(long, extend(steady, long, block=block), "extended"))
    kept = steady.makespan_s() - 16 * 6
    assert kept - 1e-9 <= seen.makespan_s - 41 * 6 <= kept + slack + 1e-9
