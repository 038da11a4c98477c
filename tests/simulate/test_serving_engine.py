"""The engine against numbers worked out by hand and against queueing theory."""

from __future__ import annotations

from itertools import pairwise
from math import inf, isclose

import numpy as np
import pytest

from planner.simulate.serving_engine import Engine, Request
from planner.simulate.serving_times import ReplicaModel, StepTimes

TOP = 4096


def step_s(tokens: int) -> float:
    return 0.01 + 1e-5 * tokens


def model(stages: int = 1, ranks: int = 1, **changes: float) -> ReplicaModel:
    table = [step_s(m) for m in range(TOP)]
    times = StepTimes(
        counts=(stages,),
        tokens=(table,),
        sequences=([0.0] * TOP,),
        prompt=([0.0] * TOP,),
        per_request_s=0.0,
        prompt_step_s=(0.0,),
    )
    fields = {"token_budget": 512, "max_sequences": 64, "cache_tokens": 1e9, **changes}
    return ReplicaModel(times=times, num_ranks=ranks, **fields)


def request(at: float = 0.0, new: int = 1000, steps: int = 10, cached: int = 0) -> Request:
    return Request(arrival_s=at, ready_s=at, cached=cached, new=new, steps=steps)


def run(engine: Engine, requests: list[Request]) -> list[Request]:
    for one in requests:
        engine.advance(one.arrival_s)
        min(engine.ranks, key=lambda rank: rank.load).admit(one)
    engine.advance(inf)
    return requests


def test_a_prompt_is_cut_into_chunks_and_decodes_alone() -> None:
    (one,) = run(Engine(model=model()), [request()])
    assert isclose(one.first_s, step_s(512) + step_s(488))
    assert isclose(one.finish_s - one.first_s, 10 * step_s(1))


def test_decoding_shares_its_steps_with_the_prompts_that_follow() -> None:
    first, second = run(Engine(model=model()), [request(), request(at=0.05)])
    start = step_s(512) + step_s(488)
    # The first decodes twice alone (until 0.05 s has passed), then beside two chunks of the second.
    alone = next(n for n in range(100) if start + n * step_s(1) >= 0.05)
    chunks = step_s(1 + 511) + step_s(1 + 489)
    assert isclose(second.first_s, start + alone * step_s(1) + chunks)
    rest = 10 - alone - 2
    assert isclose(first.finish_s, second.first_s + rest * step_s(2))


def test_a_pipeline_fills_and_each_sequence_takes_every_stage_in_turn() -> None:
    (one,) = run(Engine(model=model(stages=2)), [request(new=100, steps=4)])
    assert isclose(one.first_s, 2 * step_s(100))
    # The other micro-batch is empty and takes no time, but a token passes both stages.
    assert one.finish_s == pytest.approx(2 * step_s(100) + 4 * 2 * step_s(1))


def test_striding_and_stepping_give_the_same_times() -> None:
    rng = np.random.default_rng(3)
    arrivals = np.cumsum(rng.exponential(0.2, 200)).tolist()
    lengths = rng.integers(50, 900, 200).tolist()
    steps = rng.integers(1, 60, 200).tolist()

    def requests() -> list[Request]:
        return [request(a, n, s) for a, n, s in zip(arrivals, lengths, steps, strict=True)]

    strode = run(Engine(model=model()), requests())
    engine, stepped = Engine(model=model()), requests()
    for one in stepped:
        while engine.now_s < one.arrival_s:
            engine.advance(min(one.arrival_s, engine.now_s + 0.011))
        engine.ranks[0].admit(one)
    engine.advance(inf)
    assert [r.first_s for r in strode] == pytest.approx([r.first_s for r in stepped])
    assert [r.finish_s for r in strode] == pytest.approx([r.finish_s for r in stepped])


def test_prefill_alone_is_a_queue_with_one_server() -> None:
    # M/D/1: the mean wait is load x service / (2 (1 - load)).
    service, load = step_s(512), 0.7
    rng = np.random.default_rng(1)
    arrivals = np.cumsum(rng.exponential(service / load, 60_000)).tolist()
    done = run(Engine(model=model(), decodes=False), [request(a, 512, 0) for a in arrivals])
    waits = [r.first_s - r.arrival_s - service for r in done]
    assert np.mean(waits) == pytest.approx(load * service / (2 * (1 - load)), rel=0.05)


def test_limits_hold_and_nothing_is_lost() -> None:
    engine = Engine(model=model(max_sequences=5, cache_tokens=4000))
    done = run(engine, [request(0.01 * i, 600, 30) for i in range(60)])
    assert all(r.finish_s < inf for r in done)
    assert engine.ranks[0].running == 0
    assert engine.ranks[0].cached_tokens == 0.0
    crowd = [sum(r.first_s <= t < r.finish_s for r in done) for t in np.linspace(0, done[-1].finish_s, 500)]
    assert max(crowd) <= 5


def test_first_come_is_first_served() -> None:
    done = run(Engine(model=model()), [request(1e-6 * i, 300 + 7 * i, 5) for i in range(30)])
    assert all(a.first_s <= b.first_s for a, b in pairwise(done))


def test_ranks_step_together() -> None:
    engine = Engine(model=model(ranks=2))
    first, second = run(engine, [request(0.0, 500, 20), request(0.0, 500, 20)])
    assert first.first_s == second.first_s == step_s(500)
    alone = run(Engine(model=model(ranks=2)), [request(0.0, 500, 20)])[0]
    assert first.finish_s == alone.finish_s  # another rank's equal work costs nothing


def test_cached_prompt_tokens_are_not_computed() -> None:
    (cold,) = run(Engine(model=model()), [request(new=400)])
    (warm,) = run(Engine(model=model()), [request(new=100, cached=300)])
    assert isclose(cold.first_s - warm.first_s, step_s(400) - step_s(100))
