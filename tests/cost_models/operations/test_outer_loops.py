"""Outer loops against a clock that is stepped through, and against published runs."""

from __future__ import annotations

import pytest

from cost_models.operations.outer_loops import OuterLoop, ring_all_reduce_s


def stepped(loop: OuterLoop, step_s: float, exchange_s: float, rounds: int = 50) -> float:
    """Mean step of a worker that is followed step by step.

    Fragment f leaves after step (f + 1) H / P of every round and must have arrived tau steps later.
    """
    clock, due = 0.0, {}
    every = loop.steps // loop.fragments
    for step in range(1, rounds * loop.steps + 1):
        clock += step_s
        if step in due:
            clock = max(clock, due.pop(step))
        if step % every == 0:
            arrives = clock + exchange_s
            if loop.overlap_steps:
                due[step + loop.overlap_steps] = arrives
            else:
                clock = arrives
    return clock / (rounds * loop.steps)


@pytest.mark.parametrize("exchange_s", [0.5, 2.5, 40.0])
@pytest.mark.parametrize(
    ("steps", "fragments", "overlap"), [(20, 1, 0), (20, 1, 3), (20, 4, 0), (20, 4, 5), (24, 6, 2)]
)
def test_the_closed_form_is_what_a_worker_waits(
    steps: int, fragments: int, overlap: int, exchange_s: float
) -> None:
    loop = OuterLoop(steps=steps, fragments=fragments, overlap_steps=overlap)
    assert loop.is_possible
    assert stepped(loop, 1.0, exchange_s) == pytest.approx(loop.mean_step_s(1.0, exchange_s), rel=0.03)


def test_parts_that_would_meet_are_not_possible() -> None:
    assert not OuterLoop(steps=8, fragments=4, overlap_steps=3).is_possible
    assert not OuterLoop(steps=3, fragments=4).is_possible
    assert OuterLoop(steps=8, fragments=4, overlap_steps=2).is_possible


@pytest.mark.parametrize(("all_reduce_s", "utilisation"), [(103, 0.957), (382, 0.856), (469, 0.830)])
def test_intellect_1_computes_as_much_of_the_time_as_published(
    all_reduce_s: float, utilisation: float
) -> None:
    """38 minutes of local steps, then an all-reduce: in the US, with Europe, and round the globe.

    Source: INTELLECT-1 technical report (arXiv 2412.01152); its abstract says 83 to 96 %.
    """
    loop = OuterLoop(steps=100, bits=8)
    assert loop.utilisation(38 * 60 / 100, all_reduce_s) == pytest.approx(utilisation, abs=1e-3)


def test_less_is_sent_as_published() -> None:
    """DiLoCo: 500 times less (arXiv 2311.08105, abstract); INTELLECT-1: 400 times (arXiv 2412.01152)."""
    assert OuterLoop(steps=500).less_traffic() == 500.0
    assert OuterLoop(steps=100, bits=8).less_traffic() == 400.0


def test_streaming_sends_parts() -> None:
    loop = OuterLoop(steps=100, bits=4, fragments=4)
    assert loop.fragment_bytes(8e9) == 1e9


def test_a_ring_passes_twice_its_length_less_two() -> None:
    assert ring_all_reduce_s(0.5, 2) == 1.0
    assert ring_all_reduce_s(0.5, 4) == 3.0
