"""The replay executes orders on its own account and refuses what cannot run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.errors import VerificationError
from planner.ir.pipeline_schedule import DeviceOps, PipelineOp, PipelineSchedule, uniform_work
from planner.simulate.pipeline_replay import check_times, replay
from planner.space.schedule_family import FAMILIES, arrange
from planner.space.schedule_timing import timed

WORK = uniform_work(num_devices=2, num_microbatches=2, pass_times_s=(2, 3, 1), send_s=0.5)
GOOD = timed(WORK, FAMILIES.get("zb-h1").build(WORK), "zb-h1")


def _with(rows: list[str]) -> PipelineSchedule:
    device_ops: DeviceOps = tuple(
        tuple(PipelineOp(kind=c[1], stage=int(c[0]), microbatch=int(c[2])) for c in row.split())  # type: ignore[arg-type]
        for row in rows
    )
    starts = tuple(tuple(0.0 for _ in row) for row in device_ops)
    return PipelineSchedule(name="by hand", work=WORK, device_ops=device_ops, start_s=starts)


def test_by_hand() -> None:
    # Device 0: F0 0-2, F1 2-4; device 1: F0 2.5-4.5, B0 4.5-8.5, F1 8.5-10.5, B1 10.5-14.5.
    # Device 0: B0 9-13 (after 8.5 + 0.5), B1 15-19.
    seen = replay(_with(["0F0 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"]))
    assert seen.start_s == ((0.0, 2.0, 9.0, 15.0), (2.5, 4.5, 8.5, 10.5))
    assert (seen.makespan_s, seen.longest_stage_s) == (19.0, 19.0)
    assert seen.busy_s == (12.0, 12.0)
    assert seen.bubble_fraction == pytest.approx(1 - 24 / 38)
    assert seen.peak_memory_bytes == (2.0, 1.0)
    assert seen.memory[0] == ((0.0, 1.0), (2.0, 2.0), (13.0, 1.0), (19.0, 0.0))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["0F0 0F1 0B0", "1F0 1B0 1F1 1B1"], "0I1 is scheduled 0 times"),
        (["0F0 0F1 0F1 0B0 0B1", "1F0 1B0 1F1 1B1"], "0F1 is scheduled 2 times"),
        (["0F0 0F1 0B0 0B1 1F0", "1B0 1F1 1B1"], "does not belong on device 0"),
        (["0F0 0B0 0F1 0B1", "1F1 1F0 1B0 1B1"], "deadlock"),
        (["0F0 0F1 0B0 0B1", "1B0 1F0 1F1 1B1"], "deadlock"),
        (["0F0 0F1 0W0 0I0 0B1", "1F0 1B0 1F1 1B1"], "deadlock"),
    ],
)
def test_impossible_orders_are_refused(rows: list[str], message: str) -> None:
    with pytest.raises(VerificationError, match=message):
        replay(_with(rows))


def test_memory_limit_is_checked() -> None:
    tight = replace(GOOD, work=replace(WORK, memory_limit_bytes=(1.5, 1.5)))
    with pytest.raises(VerificationError, match="device 0 holds 2"):
        replay(tight)


def test_written_times_are_checked() -> None:
    check_times(GOOD)
    for d, row in enumerate(GOOD.start_s):
        for i in range(len(row)):
            if row[i] == 0:
                continue
            early = tuple(s - 0.25 if j == i else s for j, s in enumerate(row))
            bad = replace(GOOD, start_s=tuple(early if e == d else r for e, r in enumerate(GOOD.start_s)))
            is_tight = replay(GOOD).start_s[d][i] == row[i]
            if is_tight:
                with pytest.raises(VerificationError):
                    check_times(bad)


@pytest.mark.parametrize("name", FAMILIES.names())
def test_builders_timing_and_replay_agree(name: str) -> None:
    family = FAMILIES.get(name)
    work = arrange(
        family.layout, num_devices=4, num_microbatches=8, pass_times_s=(2.1, 2.9, 1.7), send_s=0.25
    )
    schedule = timed(work, family.build(work), name)
    seen = replay(schedule)
    for ours, theirs in zip(schedule.start_s, seen.start_s, strict=True):
        assert ours == pytest.approx(theirs)
    assert seen.makespan_s == pytest.approx(schedule.makespan_s())
    assert seen.peak_memory_bytes == pytest.approx(schedule.peak_memory_bytes())
    late = timed(work, family.build(work), name, align_late=True)
    check_times(late)
    assert late.makespan_s() == pytest.approx(schedule.makespan_s())
    assert late.longest_stage_s() <= schedule.longest_stage_s() + 1e-9
