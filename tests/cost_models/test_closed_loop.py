"""Closed loops: what must hold of any pattern, and cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.serving.closed_loop import (
    Discipline,
    Loop,
    Pattern,
    closed_loop_pattern,
    convoy_ends_s,
    loop_times,
    offline_pattern,
    run_s,
)
from cost_models.serving.iteration import StepTime, with_launches
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables
from hardware_profiles.provenance import Provenance

STEP_S, TOKEN_S = 0.010, 1e-4


def tables(stages: float = 1.0, ranks: int = 1, launches: float = 0.0) -> TimeTables:
    grid = np.array([0.0, 1e6])
    return TimeTables(
        token_grid=grid,
        token_time_s=np.array([[STEP_S, STEP_S + TOKEN_S * 1e6]]),
        sequence_grid=grid,
        sequence_time_s=np.zeros((1, 2)),
        prompt_attention_s=np.zeros((1, 1)),
        stage_counts=np.array([stages]),
        num_attention_ranks=ranks,
        per_request_s=0.0,
        sigma=0.1,
        provenance=Provenance.MEASURED,
        prompt_step_s=np.array([launches]),
    )


def requests(prompt: float = 100.0, output: float = 11.0) -> Requests:
    one = np.ones(1)
    return Requests(
        input_tokens=one * prompt, new_tokens=one * prompt, output_tokens=one * output, weights=one
    )


def pattern(clients: int, how: Discipline, *, ranks: int = 1, cache: float = 1e9, stages: int = 1) -> Pattern:
    loop = Loop(
        num_clients=clients, num_ranks=ranks, max_sequences=1000.0, cache_tokens=cache, num_stages=stages
    )
    return closed_loop_pattern(requests(), loop, how)


def test_one_client_waits_for_the_step_under_way_and_its_own_prompt() -> None:
    found = loop_times(pattern(1, Discipline(token_budget=1000)), tables(), requests())
    assert found.ttft_s == pytest.approx(STEP_S + 100 * TOKEN_S)
    assert found.tpot_s == pytest.approx(STEP_S + TOKEN_S)


def test_prompts_that_share_a_step_get_their_first_tokens_together() -> None:
    found = loop_times(pattern(2, Discipline(token_budget=1000)), tables(), requests())
    assert found.ttft_s == pytest.approx(STEP_S + 200 * TOKEN_S)


def test_a_budget_of_one_prompt_makes_the_second_client_wait() -> None:
    found = loop_times(pattern(2, Discipline(token_budget=100)), tables(), requests())
    first, second = STEP_S + 100 * TOKEN_S, 2 * STEP_S + 200 * TOKEN_S
    assert sorted(found.ttft_s[:2])[0] == pytest.approx(first)
    assert second <= sorted(found.ttft_s[:2])[1] <= second + STEP_S + 2 * TOKEN_S


def test_every_step_keeps_the_budget_and_every_prompt_is_computed_once() -> None:
    how = Discipline(token_budget=250)
    found = pattern(7, how)
    assert (found.prompt_tokens + found.decode <= how.token_budget).all()
    assert np.bincount(found.chunk_segment, weights=found.chunk_share).sum() == pytest.approx(70.0)
    assert (found.arrived <= found.first).all()
    assert (found.first < found.finished).all()


def test_steps_with_prompts_pay_for_their_launches() -> None:
    made = pattern(2, Discipline(token_budget=1000))
    plain, eager = loop_times(made, tables(), requests()), loop_times(made, tables(launches=0.05), requests())
    assert eager.ttft_s.mean() == pytest.approx(plain.ttft_s.mean() + 0.05)
    assert eager.e2e_s.mean() > plain.e2e_s.mean()


def test_launches_that_run_ahead_hide_behind_the_device_or_hide_it() -> None:
    made = pattern(2, Discipline(token_budget=1000))
    device_s = STEP_S + 200 * TOKEN_S
    for launches in (1e-4, 0.5):
        ahead = replace(tables(launches=launches), launch_sharpness=8.0)
        assert loop_times(made, ahead, requests()).ttft_s[0] == pytest.approx(
            max(device_s, launches), rel=1e-3
        )
    alike = replace(tables(launches=device_s), launch_sharpness=2.0)
    assert loop_times(made, alike, requests()).ttft_s[0] == pytest.approx(2.0**0.5 * device_s)


def test_launches_that_meet_the_device_take_from_the_longer_to_the_sum() -> None:
    device, launches = np.array([0.0, 1.0, 2.0, 5.0]), np.array([3.0, 0.0, 2.0, 1.0])
    assert with_launches(device, launches, 1.0) == pytest.approx(device + launches)
    before = with_launches(device, launches, 1.0)
    for sharpness in (1.5, 2.0, 4.0, 50.0):
        found = with_launches(device, launches, sharpness)
        assert (found <= before + 1e-12).all()
        assert (found >= np.maximum(device, launches) - 1e-12).all()
        before = found
    assert with_launches(0.0, 0.0, 2.0) == pytest.approx(0.0)


def test_a_front_end_takes_requests_in_one_after_another() -> None:
    made = pattern(2, Discipline(token_budget=1000))
    slow = replace(tables(), admission_s=0.5)
    assert loop_times(made, slow, requests()).ttft_s[0] == pytest.approx(1.0)
    quick = replace(tables(), admission_s=1e-4)
    assert loop_times(made, quick, requests()).ttft_s == pytest.approx(
        loop_times(made, tables(), requests()).ttft_s
    )
    assert run_s(made, slow) == pytest.approx(run_s(made, tables()))


def test_requests_that_end_together_start_again_a_few_at_a_time() -> None:
    made = pattern(12, Discipline(token_budget=10_000))
    starts = np.bincount(made.chunk_segment)
    assert starts.max() <= max(2, -(-2 * 12 // 10))


def test_a_full_cache_keeps_requests_out() -> None:
    free = loop_times(pattern(4, Discipline(token_budget=1000)), tables(), requests())
    full = loop_times(pattern(4, Discipline(token_budget=1000), cache=220.0), tables(), requests())
    assert full.sequences <= 2.0
    assert full.ttft_s.mean() > 3.0 * free.ttft_s.mean()
    assert full.tpot_s.mean() < free.tpot_s.mean()


def test_ranks_halve_what_one_rank_decodes() -> None:
    two = pattern(8, Discipline(token_budget=1000), ranks=2)
    assert two.decode.max() == 4.0
    assert loop_times(two, tables(ranks=2), requests()).tpot_s.mean() < (
        loop_times(pattern(8, Discipline(token_budget=1000)), tables(), requests()).tpot_s.mean()
    )


def test_stages_take_turns() -> None:
    how = Discipline(token_budget=1000)
    one = loop_times(pattern(4, how), tables(1.0), requests())
    two = loop_times(pattern(4, how, stages=2), tables(2.0), requests())
    assert two.tpot_s.mean() > one.tpot_s.mean()


def test_one_client_of_a_pipeline_waits_for_every_stage() -> None:
    found = loop_times(pattern(1, Discipline(token_budget=1000), stages=4), tables(4.0), requests())
    assert found.tpot_s == pytest.approx(4 * (STEP_S + TOKEN_S))
    assert found.ttft_s == pytest.approx(4 * (STEP_S + 100 * TOKEN_S))


def flow_shop_s(steps: list[float], stages: int) -> float:
    """Return when the last of as many micro-batches in flight as stages leaves, stage by stage."""
    left = [0.0] * stages
    out: list[float] = []
    for at, step in enumerate(steps):
        ready = out[at - stages] if at >= stages else 0.0
        for stage in range(stages):
            left[stage] = ready = max(ready, left[stage]) + step
        out.append(ready)
    return out[-1]


def in_pipeline(steps: np.ndarray, counts: np.ndarray, stages: int) -> np.ndarray:
    return convoy_ends_s(StepTime(slot_s=steps, through_s=steps * stages), counts, stages)


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("every", [1, 3, 50])
def test_long_steps_hold_up_a_pipeline_as_in_a_flow_shop(stages: int, every: int) -> None:
    steps = [0.1 if at % every == 0 else 0.01 for at in range(200)]
    told = in_pipeline(np.array(steps), np.ones(200), stages)[-1]
    assert told == pytest.approx(flow_shop_s(steps, stages))


def test_segments_of_equal_steps_last_as_long_as_their_steps() -> None:
    short, counts = np.array([0.01, 0.1, 0.01, 0.03]), np.array([7.0, 1.0, 30.0, 20.0])
    each = np.repeat(short, counts.astype(int))
    one_by_one = in_pipeline(each, np.ones(each.size), 4)
    assert in_pipeline(short, counts, 4) == pytest.approx(one_by_one[[0, 7, 8, 38, 58]])


def test_offline_requests_come_once_and_all_of_them_end() -> None:
    loop = Loop(num_clients=6, num_ranks=1, max_sequences=4.0, cache_tokens=1e9)
    made = offline_pattern(requests(), loop, Discipline(token_budget=400))
    assert made.sample.size == 6
    assert (made.arrived == 0).all()
    # four prompts in one step, ten steps of four, then the other two in one step and ten of two
    steps_s = 22 * STEP_S + (400 + 10 * 4 + 200 + 10 * 2) * TOKEN_S
    assert run_s(made, tables()) == pytest.approx(steps_s)


def test_a_pipeline_with_few_requests_is_slower_per_device() -> None:
    how = Discipline(token_budget=1000)
    loops = [
        Loop(num_clients=8, num_ranks=1, max_sequences=1000.0, cache_tokens=1e9, num_stages=n) for n in (1, 4)
    ]
    one, four = (
        run_s(offline_pattern(requests(), loop, how), tables(float(loop.num_stages))) for loop in loops
    )
    assert four > one


def test_equal_questions_have_equal_answers() -> None:
    how = Discipline(token_budget=1000)
    assert pattern(5, how) is pattern(5, how)


def mixed_steps(wait_steps: int) -> tuple[int, float]:
    """Return the steps with prompts, and the mean time to a first token, of eight clients on four ranks."""
    two = np.ones(2)
    spread = Requests(
        input_tokens=100 * two, new_tokens=100 * two, output_tokens=np.array([41.0, 97.0]), weights=0.5 * two
    )
    loop = Loop(num_clients=8, num_ranks=4, max_sequences=1000.0, cache_tokens=1e9)
    made = closed_loop_pattern(spread, loop, Discipline(token_budget=1000, wait_steps=wait_steps))
    priced = replace(tables(ranks=4), prompt_attention_s=np.zeros((1, 2)))
    found = loop_times(made, priced, spread)
    return int((made.prompt_tokens > 0).sum()), float(found.ttft_s.mean())


def test_prompts_that_wait_for_all_ranks_share_their_steps_and_come_later() -> None:
    (alone, at_once), (together, waited) = mixed_steps(0), mixed_steps(20)
    assert together < 0.7 * alone
    assert at_once < waited < at_once + 20 * (STEP_S + 3 * TOKEN_S)


def test_nobody_waits_longer_than_said_nor_for_ranks_that_decode_nothing() -> None:
    for wait_steps in (2, 7, 30):
        how = Discipline(token_budget=1000, wait_steps=wait_steps)
        lone = loop_times(pattern(1, how, ranks=2), tables(ranks=2), requests())
        assert lone.ttft_s == pytest.approx(STEP_S + 100 * TOKEN_S)
        # two clients on two ranks, equal lengths: while one decodes the other does too, or has a prompt
        longest = loop_times(pattern(2, how, ranks=2), tables(ranks=2), requests()).ttft_s.max()
        assert longest <= (wait_steps + 2) * (STEP_S + 100 * TOKEN_S)
