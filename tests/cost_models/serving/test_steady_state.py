"""The steady state of a replica against a step-by-step simulation and against identities."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.serving.capacity import (
    Entries,
    LatencyLimits,
    Pools,
    capacity_position,
    position_at_concurrency,
    position_at_rate,
    state_at,
    ttft_percentiles,
)
from cost_models.serving.iteration import step_time
from cost_models.serving.queueing import Arrivals
from cost_models.serving.requests import Requests
from cost_models.serving.static_batch import static_batch
from cost_models.serving.steady_state import (
    BatchLimits,
    aggregated_curve,
    aggregated_curves,
    decode_curve,
    decode_curves,
    prefill_curve,
    prefill_curves,
)
from cost_models.serving.tables import TimeTables, interpolate
from hardware_profiles.provenance import Provenance

BASE_S, TOKEN_S, SEQUENCE_S = 10e-3, 50e-6, 100e-6


def requests(*samples: tuple[float, float, float]) -> Requests:
    values = np.array(samples)
    return Requests(
        input_tokens=values[:, 0], new_tokens=values[:, 0], output_tokens=values[:, 1], weights=values[:, 2]
    )


def tables(of: Requests, stages: int = 1, ranks: int = 1) -> TimeTables:
    grid = np.arange(0.0, 20001.0, 250.0)
    sequences = np.arange(0.0, 1025.0, 32.0)
    return TimeTables(
        token_grid=grid,
        token_time_s=(BASE_S + TOKEN_S * grid)[None, :] / stages,
        sequence_grid=sequences,
        sequence_time_s=(SEQUENCE_S * sequences)[None, :] / stages,
        prompt_attention_s=np.zeros((1, of.weights.size)),
        stage_counts=np.array([float(stages)]),
        num_attention_ranks=ranks,
        per_request_s=0.0,
        sigma=0.1,
        provenance=Provenance.ANALYTICAL,
    )


LIMITS = BatchLimits(token_budget=2048, max_sequences=1024, cache_sequences=400, cache_scv=0.0)
CHAT = requests((500.0, 101.0, 1.0))


def fill(waiting: list[list[float]], left: float) -> float:
    """Give the prompts that wait what is left of the budget, in order; return the tokens given."""
    prompt = 0.0
    for job in waiting:
        part = min(job[1], left - prompt)
        job[1] -= part
        prompt += part
    return prompt


def simulate(
    of: Requests, rate: float, budget: int, count: int, seed: int, places: int = 1 << 30
) -> tuple[float, float]:
    """Run continuous batching with chunked prefill step by step; return mean TTFT and mean TPOT.

    At most `places` requests are in it at once; the others wait outside, in order.
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1.0 / rate, count))
    kinds = rng.choice(of.weights.size, count, p=of.weights)
    now, following = 0.0, 0
    waiting: list[list[float]] = []
    running: list[list[float]] = []
    ttft: list[float] = []
    tpot: list[float] = []
    while following < count or waiting or running:
        while following < count and arrivals[following] <= now:
            kind = kinds[following]
            waiting.append([arrivals[following], of.new_tokens[kind], of.steps[kind]])
            following += 1
        if not waiting and not running:
            now = arrivals[following]
            continue
        prompt = fill(waiting[: places - len(running)], budget - len(running))
        done = [job for job in waiting if job[1] <= 0]
        now += BASE_S + TOKEN_S * (len(running) + prompt) + SEQUENCE_S * len(running)
        for job in running:
            job[2] -= 1
        for job in [job for job in running if job[2] <= 0]:
            tpot.append((now - job[1]) / job[0])
        running = [job for job in running if job[2] > 0]
        for job in done:
            waiting.remove(job)
            ttft.append(now - job[0])
            if job[2] > 0:
                running.append([job[2], now, job[2]])
    return float(np.mean(ttft)), float(np.mean(tpot))


@pytest.mark.parametrize(
    ("of", "rate"),
    [
        (CHAT, 4.0),
        (CHAT, 12.0),
        (requests((4000.0, 201.0, 1.0)), 2.0),
        (requests((200.0, 51.0, 0.7), (3000.0, 151.0, 0.3)), 6.0),
    ],
)
def test_latencies_are_those_of_a_simulation(of: Requests, rate: float) -> None:
    curve = aggregated_curve(tables(of), of, LIMITS)
    assert curve is not None
    pools, entries = Pools.stack([curve], of, Arrivals()), Entries.one(0, 1)
    state = state_at(pools, entries, position_at_rate(pools, entries, rate))
    runs = [simulate(of, rate, 2048, 1500, seed) for seed in (1, 2)]
    ttft, tpot = np.mean(runs, axis=0)
    assert float(state.tpot_s[0]) == pytest.approx(tpot, rel=0.08)
    assert float(state.ttft_s[0]) == pytest.approx(ttft, rel=0.25)


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
@pytest.mark.parametrize(("output", "places"), [(101.0, 4), (101.0, 20), (401.0, 8)])
def test_requests_wait_for_a_place_among_few(share: float, output: float, places: int) -> None:
    of = requests((500.0, output, 1.0))
    limits = replace(LIMITS, max_sequences=float(places))
    curve = aggregated_curve(tables(of), of, limits)
    assert curve is not None
    rate = share * float(curve.rate_rps[-1])
    pools, entries = Pools.stack([curve], of, Arrivals()), Entries.one(0, 1)
    state = state_at(pools, entries, position_at_rate(pools, entries, rate))
    runs = [simulate(of, rate, 2048, 3000, seed, places) for seed in (1, 2)]
    ttft, tpot = np.mean(runs, axis=0)
    assert float(state.tpot_s[0]) == pytest.approx(tpot, rel=0.1)
    assert float(state.ttft_s[0]) == pytest.approx(ttft, rel=0.45)
    # Without places to wait for, the same load was told to wait for nothing but prompts.
    free = replace(pools, slots=np.full(1, np.inf))
    alone = state_at(free, entries, position_at_rate(free, entries, rate))
    assert float(alone.ttft_s[0]) < float(state.ttft_s[0])


def test_a_step_is_the_sum_of_its_parts_and_stages_share_it() -> None:
    whole = step_time(tables(CHAT), np.array([32.0]), np.array([1000.0]))
    assert float(whole.slot_s[0]) == pytest.approx(BASE_S + TOKEN_S * 1032 + SEQUENCE_S * 32)
    halves = step_time(tables(CHAT, stages=2), np.array([32.0]), np.array([1000.0]))
    assert float(halves.slot_s[0]) == pytest.approx(float(whole.slot_s[0]) / 2)
    assert float(halves.through_s[0]) == pytest.approx(float(whole.slot_s[0]))


def test_tables_are_never_extrapolated() -> None:
    with pytest.raises(ValueError, match="outside the priced range"):
        interpolate(np.array([0.0, 1.0]), np.ones((1, 2)), np.array([1.5]))


def test_littles_law_holds_on_the_decode_curve() -> None:
    curve = decode_curve(tables(CHAT), CHAT, LIMITS)
    assert curve is not None
    assert curve.rate_rps * curve.tpot_s * CHAT.mean_steps == pytest.approx(curve.sequences, rel=1e-9)


def test_overflow_is_rare_at_the_limit() -> None:
    rng = np.random.default_rng(0)
    mean = LIMITS.mean_sequences
    assert (rng.poisson(mean, 200_000) > LIMITS.cache_sequences).mean() < 0.012
    assert mean > 0.8 * LIMITS.cache_sequences


def test_context_is_weighted_by_how_long_it_is_held() -> None:
    of = requests((100.0, 11.0, 0.5), (1000.0, 101.0, 0.5))
    held = [100.0 + j for j in range(1, 11)] + [1000.0 + j for j in range(1, 101)]
    assert of.context_moments()[0] == pytest.approx(np.mean(held), rel=1e-6)
    clipped = [min(512.0, value) for value in held]
    assert of.context_moments(512.0)[0] == pytest.approx(np.mean(clipped), rel=1e-3)


def test_prefill_saturates_at_its_service_time() -> None:
    curve = prefill_curve(tables(CHAT), CHAT, 2048.0)
    assert curve.rate_rps[-1] * curve.service_s[-1] == pytest.approx(0.999)


def test_capacity_meets_its_limits_and_no_more_does() -> None:
    curve = aggregated_curve(tables(CHAT), CHAT, LIMITS, 90.0)
    assert curve is not None
    pools, entries = Pools.stack([curve], CHAT, Arrivals()), Entries.one(0, 2)
    limits = LatencyLimits(ttft_s=0.3, tpot_s=0.05, percentile=90.0)
    position = capacity_position(pools, entries, limits)
    state = state_at(pools, entries, position)
    high = float(ttft_percentiles(pools, entries, state, np.array([90.0]))[0])
    assert high <= 0.3 * (1 + 1e-6)
    assert float(state.tpot_high_s[0]) <= 0.05 * (1 + 1e-9)
    assert max(high / 0.3, float(state.tpot_high_s[0]) / 0.05) == pytest.approx(1.0, rel=1e-3)


def test_a_closed_loop_holds_its_population() -> None:
    limits = replace(LIMITS, closed_loop=True)
    curve = aggregated_curve(tables(CHAT), CHAT, limits)
    assert curve is not None
    pools, entries = Pools.stack([curve], CHAT, Arrivals(closed=True)), Entries.one(0, 1)
    state = state_at(pools, entries, position_at_concurrency(pools, entries, 40.0))
    assert float(state.rate_rps[0] * state.e2e_s[0]) == pytest.approx(40.0, rel=1e-4)


def test_nothing_fits_a_cache_below_one_request() -> None:
    assert aggregated_curve(tables(CHAT), CHAT, replace(LIMITS, cache_sequences=0.5)) is None


def test_a_static_batch_prefills_then_decodes() -> None:
    times = static_batch(tables(CHAT), CHAT, 8.0, 8192.0)
    assert times.ttft_s == pytest.approx(BASE_S + TOKEN_S * 4000)
    assert times.tpot_s == pytest.approx(BASE_S + (TOKEN_S + SEQUENCE_S) * 8)
    assert times.e2e_s == pytest.approx(times.ttft_s + 100 * times.tpot_s)


def test_curves_of_many_replicas_are_those_of_each_alone() -> None:
    of = requests((200.0, 51.0, 0.7), (3000.0, 151.0, 0.3))
    small = replace(LIMITS, cache_sequences=5.0, token_budget=512.0)
    cases = [
        (tables(of), LIMITS),
        (tables(of, stages=2), small),
        (tables(of), replace(LIMITS, cache_sequences=0.5)),
        (tables(of), replace(small, closed_loop=True)),
    ]
    for together, alone in ((aggregated_curves, aggregated_curve), (decode_curves, decode_curve)):
        for curve, (priced, limits) in zip(together(cases, of, 90.0), cases, strict=True):
            single = alone(priced, of, limits, 90.0)
            assert (curve is None) == (single is None)
            if curve is not None and single is not None:
                for name in (
                    "rate_rps",
                    "tpot_high_s",
                    "service_s",
                    "service_scv",
                    "own_ttft_s",
                    "sequences",
                ):
                    assert getattr(curve, name) == pytest.approx(getattr(single, name), rel=1e-12)
    budgets = [(tables(of), 512.0), (tables(of, stages=2), 2048.0)]
    for curve, (priced, budget) in zip(prefill_curves(budgets, of), budgets, strict=True):
        single = prefill_curve(priced, of, budget)
        assert curve.rate_rps == pytest.approx(single.rate_rps, rel=1e-12)
        assert curve.own_ttft_s == pytest.approx(single.own_ttft_s, rel=1e-12)
