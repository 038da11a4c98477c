"""Closed loops over a prefill and a decode pool: cases worked out by hand, and laws that any run obeys."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.serving.closed_pair import DecodePool, PairTimes, PrefillPool, pair_times
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables
from hardware_profiles.provenance import Provenance

STEP_S, TOKEN_S, REQUEST_S, SEND_S = 0.010, 1e-4, 0.003, 0.020
PROMPT, OUTPUT = 100.0, 11.0


def tables(ranks: int = 1, shared: float = 0.0) -> TimeTables:
    grid = np.array([0.0, 1e4])
    return TimeTables(
        token_grid=grid,
        token_time_s=np.array([[STEP_S, STEP_S + TOKEN_S * 1e4]]),
        sequence_grid=grid,
        sequence_time_s=np.zeros((1, 2)),
        prompt_attention_s=np.zeros((1, 1)),
        stage_counts=np.ones(1),
        num_attention_ranks=ranks,
        per_request_s=REQUEST_S,
        sigma=0.1,
        provenance=Provenance.MEASURED,
        shared_time_s=np.array([[0.0, shared * TOKEN_S * 1e4]]),
    )


def requests() -> Requests:
    one = np.ones(1)
    return Requests(
        input_tokens=one * PROMPT, new_tokens=one * PROMPT, output_tokens=one * OUTPUT, weights=one
    )


def run(clients: int, places: float = 1e9, *, prefill: PrefillPool | None = None) -> PairTimes:
    first = prefill or PrefillPool(tables=tables(), num_workers=1, token_budget=1000)
    second = DecodePool(tables=tables(), num_workers=1, max_sequences=places, cache_tokens=1e9)
    return pair_times(clients, requests(), first, second, np.full(1, SEND_S))


def test_one_client_pays_each_part_once() -> None:
    found = run(1)
    assert found.ttft_s == pytest.approx(STEP_S + PROMPT * TOKEN_S + 2 * REQUEST_S + SEND_S)
    assert found.tpot_s == pytest.approx(STEP_S + TOKEN_S)
    assert found.mean(found.e2e_s) == pytest.approx(found.mean(found.ttft_s) + 10 * (STEP_S + TOKEN_S))


def test_clients_beyond_the_places_wait_in_front_of_the_decode_pool() -> None:
    """With p places the rate is p over the decode time, and clients over the rate is the end-to-end time."""
    found = run(12, places=4.0)
    decode_s = 10 * (STEP_S + 4 * TOKEN_S)
    late = slice(12, None)
    assert found.e2e_s[late].mean() == pytest.approx(12 * decode_s / 4, rel=0.1)
    assert found.tpot_s[late].mean() == pytest.approx(decode_s / 10, rel=0.02)
    assert found.sequences == pytest.approx(4.0, rel=0.1)
    assert run(12).mean(run(12).ttft_s) < found.mean(found.ttft_s)


def test_a_burst_waits_for_prompts_before_it() -> None:
    """Prompts of one budget each are computed one after another."""
    pool = PrefillPool(tables=tables(), num_workers=1, token_budget=int(PROMPT))
    found = run(5, prefill=pool)
    one = STEP_S + PROMPT * TOKEN_S
    assert sorted(found.ttft_s[:5]) == pytest.approx([n * one + 2 * REQUEST_S + SEND_S for n in range(1, 6)])
    assert run(5, prefill=replace(pool, num_workers=5)).ttft_s[:5] == pytest.approx(
        one + 2 * REQUEST_S + SEND_S
    )


def test_experts_of_an_idle_rank_help_the_busy_one() -> None:
    """Half of a token's time is shared work: alone on two ranks a prompt needs half of that half."""
    pool = PrefillPool(tables=tables(ranks=2, shared=0.5), num_workers=1, token_budget=1000)
    found = run(1, prefill=pool)
    assert found.ttft_s == pytest.approx(STEP_S + 0.75 * PROMPT * TOKEN_S + 2 * REQUEST_S + SEND_S)


def test_every_request_is_served_and_little_s_law_holds() -> None:
    found = run(8)
    assert (found.ttft_s > 0).all()
    assert found.e2e_s == pytest.approx(found.ttft_s + found.tpot_s * 10)
    assert found.weights.sum() == pytest.approx(1.0)
    assert found.percentile(found.ttft_s, np.array([50.0]))[0] <= found.ttft_s.max()
    assert 0.0 < found.prefill_busy < 1.0
