"""Closed forms agree with the replay of the built orders, and with published tables."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cost_models.schedule.closed_forms import (
    CLOSED_FORMS,
    PipelineShape,
    dualpipe_overlapped_bubble_s,
    makespan_lower_bound_s,
)
from planner.simulate.pipeline_replay import replay
from planner.space.schedule_family import FAMILIES, arrange
from planner.space.schedule_timing import timed

PROFILES = Path(__file__).parents[2] / "data" / "zero_bubble_pass_times.csv"
CHUNKS = {"1.5B": 3, "6.2B": 4, "14.6B": 3, "28.3B": 2}
# The equal-times schedules are defined by their formulas for equal passes alone; others also for these.
UNEQUAL = {"gpipe", "1f1b", "interleaved-1f1b", "zb-h1", "zb-h2", "dualpipe"}
WITH_SENDS = {"gpipe", "1f1b", "zb-h1", "zb-h2"}


def test_every_named_schedule_has_a_closed_form() -> None:
    assert sorted(CLOSED_FORMS) == sorted(FAMILIES.names())


@pytest.mark.parametrize("name", sorted(CLOSED_FORMS))
@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (6, 12), (8, 24)])
@pytest.mark.parametrize("times", [(2.0, 2.0, 2.0), (3.0, 4.0, 2.0)])
@pytest.mark.parametrize("send_s", [0.0, 0.125])
def test_closed_forms_agree_with_replay(
    name: str, p: int, m: int, times: tuple[float, float, float], send_s: float
) -> None:
    if (times[0] != times[2] and name not in UNEQUAL) or (send_s and name not in WITH_SENDS):
        pytest.skip("outside the range where the formula is exact")
    family, form = FAMILIES.get(name), CLOSED_FORMS[name]
    work = arrange(family.layout, num_devices=p, num_microbatches=m, pass_times_s=times, send_s=send_s)
    schedule = timed(work, family.build(work), name, align_late=True)
    seen = replay(schedule)
    shape = PipelineShape(
        num_devices=p,
        num_microbatches=m,
        forward_s=times[0],
        backward_input_s=times[1],
        backward_weight_s=times[2],
        send_s=send_s,
        num_chunks=2 if family.layout in ("loop", "v") else 1,
    )
    assert seen.makespan_s == pytest.approx(m * sum(times) + form.bubble_s(shape))
    assert schedule.longest_stage_s() == pytest.approx(m * sum(times) + form.stage_bubble_s(shape))
    assert seen.peak_memory_bytes == pytest.approx(form.peak(shape))
    if family.layout != "two_way":
        assert seen.makespan_s >= makespan_lower_bound_s(shape) - 1e-9


def _profiles() -> list[dict[str, str]]:
    lines = [line for line in PROFILES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


@pytest.mark.parametrize("row", _profiles(), ids=lambda r: f"{r['model']}-{r['micro_batches']}")
def test_published_bubble_rates(row: dict[str, str]) -> None:
    times = tuple(float(row[k]) for k in ("T_F_ms", "T_B_ms", "T_W_ms"))
    shape = PipelineShape(
        num_devices=int(row["stages"]),
        num_microbatches=int(row["micro_batches"]),
        forward_s=times[0],
        backward_input_s=times[1],
        backward_weight_s=times[2],
        send_s=float(row["T_comm_ms"]),
    )
    work_s = shape.num_microbatches * shape.work_s
    for name, column in (("1f1b", "1F1B"), ("zb-h1", "ZB_H1"), ("zb-h2", "ZB_H2")):
        bubble = CLOSED_FORMS[name].stage_bubble_s(shape)
        assert bubble / (work_s + bubble) == pytest.approx(float(row[f"bubble_{column}"]), abs=6e-5)


def test_overlapped_dualpipe_formula() -> None:
    shape = PipelineShape(
        num_devices=8, num_microbatches=20, forward_s=1.0, backward_input_s=1.0, backward_weight_s=1.0
    )
    # (4 - 1)(2.5 + 2 - 3) by hand.
    assert dualpipe_overlapped_bubble_s(shape, 2.5) == pytest.approx(4.5)
