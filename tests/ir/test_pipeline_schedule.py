"""The pipeline IR: memory follows from the order, the text form is lossless, bad work is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.errors import InputError
from planner.ir.pipeline_schedule import PipelineOp, check_work, peak_memory_bytes, uniform_work
from planner.ir.pipeline_text import parse_schedule, print_schedule
from planner.space.schedule_family import FAMILIES, arrange
from planner.space.schedule_timing import timed

WORK = uniform_work(num_devices=2, num_microbatches=3, pass_times_s=(0.1, 0.2, 0.3), send_s=1e-3)


def test_peak_counts_forward_at_its_start_and_releases_at_ends() -> None:
    ops = [PipelineOp(kind=k, stage=0, microbatch=m) for k, m in (("F", 0), ("F", 1), ("I", 0), ("F", 2))]
    # 1 + 1, then I gives back a half, then a third forward: 2.5.
    assert peak_memory_bytes(WORK, ops) == 2.5
    whole = [PipelineOp(kind=k, stage=0, microbatch=m) for k, m in (("F", 0), ("B", 0), ("F", 1))]
    assert peak_memory_bytes(WORK, whole) == 1.0


def test_smallest_memory_is_one_micro_batch_at_a_time() -> None:
    assert WORK.smallest_memory_bytes() == (1.0, 1.0)
    v = uniform_work(num_devices=2, num_microbatches=3, pass_times_s=(1, 1, 1), num_chunks=2, v_shape=True)
    assert v.smallest_memory_bytes() == (1.0, 1.0)
    assert [s.device for s in v.stages] == [0, 1, 1, 0]


@pytest.mark.parametrize("name", FAMILIES.names())
def test_text_form_round_trips(name: str) -> None:
    family = FAMILIES.get(name)
    work = arrange(
        family.layout, num_devices=2, num_microbatches=4, pass_times_s=(0.0185, 0.0181, 0.0093), send_s=6e-4
    )
    schedule = timed(work, family.build(work), name)
    assert parse_schedule(print_schedule(schedule)) == schedule


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("pipeline_schedule v1", "pipeline_schedule v9"), 1),
        (("send_s 0.001", "send_s soon"), 3),
        (("0F1@", "0X1@"), 7),
        (("route 3 ", "route -3 "), 6),
        (("device=0", "gadget=0"), 4),
    ],
)
def test_broken_text_is_refused_with_its_line(change: tuple[str, str], line: int) -> None:
    family = FAMILIES.get("1f1b")
    text = print_schedule(timed(WORK, family.build(WORK), "x"))
    assert change[0] in text
    with pytest.raises(InputError) as caught:
        parse_schedule(text.replace(*change), "s.txt")
    assert caught.value.line == line


@pytest.mark.parametrize(
    "change",
    [
        {"send_s": -1.0},
        {"send_s": float("nan")},
        {"num_devices": 1},
        {"routes": ((0, 5),)},
        {"routes": ((0, 0),)},
        {"routes": ()},
        {"memory_limit_bytes": (1.0,)},
        {"stages": (replace(WORK.stages[0], forward_s=float("inf")), WORK.stages[1])},
        {"stages": (replace(WORK.stages[0], weight_activation_bytes=2.0), WORK.stages[1])},
    ],
)
def test_bad_work_is_refused(change: dict[str, object]) -> None:
    check_work(WORK)
    with pytest.raises(InputError):
        check_work(replace(WORK, **change))  # type: ignore[arg-type]
