"""Every policy, router, cache tier and failure against what it promises."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest

from planner.simulate.policies import POLICIES
from planner.simulate.routing import ROUTERS
from planner.simulate.serving_cache import PrefixCache, Store, Tier
from planner.simulate.serving_engine import Engine, Rank
from planner.simulate.serving_request import Request

from .test_serving_engine import model, run


def request(at: float = 0.0, new: int = 500, steps: int = 10, **who: float) -> Request:
    return Request(arrival_s=at, ready_s=at, cached=0, new=new, steps=steps, **who)  # pyright: ignore[reportArgumentType]


def order(policy: str, waiting: list[Request]) -> list[int]:
    queue = POLICIES.get(policy)()
    for one in waiting:
        queue.append(one)
    found: list[int] = []
    while len(queue):
        head = queue.head()
        one = queue.popleft()
        assert one is head
        queue.served(one, one.new)
        found.append(waiting.index(one))
    return found


def test_first_come_is_served_first_whatever_else_holds() -> None:
    waiting = [request(2.0, priority=9), request(0.0, new=9000), request(1.0)]
    assert order("fcfs", waiting) == [1, 2, 0]


def test_priority_goes_before_arrival() -> None:
    waiting = [request(0.0), request(1.0, priority=2), request(2.0, priority=2), request(3.0, priority=1)]
    assert order("priority", waiting) == [1, 2, 3, 0]


def test_the_shortest_predicted_work_goes_first() -> None:
    waiting = [request(new=100, guess=900), request(new=300, guess=10), request(new=100, guess=100)]
    assert order("shortest-predicted", waiting) == [2, 1, 0]


def test_a_program_that_was_served_yields_to_one_that_was_not() -> None:
    waiting = [request(0.0, session=1), request(0.1, session=1), request(0.2, session=2), request(0.3)]
    assert order("program", waiting) == [0, 2, 3, 1]


def test_tenants_share_whatever_one_of_them_sends() -> None:
    waiting = [request(0.01 * i, tenant=0) for i in range(6)] + [request(1.0 + i, tenant=1) for i in range(3)]
    assert order("fair-share", waiting) == [0, 6, 1, 7, 2, 8, 3, 4, 5]


def test_a_tenant_that_was_away_has_not_saved_up_service() -> None:
    queue = POLICIES.get("fair-share")()
    for index in range(10):
        one = request(float(index), tenant=0)
        queue.append(one)
        queue.served(queue.popleft(), 500)
    for index in range(4):
        queue.append(request(20.0 + index, tenant=0))
    queue.append(request(30.0, tenant=1))
    queue.append(request(31.0, tenant=1))
    found = []
    while len(queue):
        one = queue.popleft()
        queue.served(one, 500)
        found.append(one.tenant)
    assert found[:4] in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.mark.parametrize("policy", POLICIES.names())
def test_no_policy_loses_or_changes_work(policy: str) -> None:
    rng = np.random.default_rng(5)
    jobs = [
        request(0.02 * i, int(rng.integers(20, 900)), int(rng.integers(0, 50)), tenant=i % 3, session=i % 7)
        for i in range(120)
    ]
    engine = Engine(model=model(max_sequences=8, cache_tokens=6000), queue=POLICIES.get(policy))
    done = run(engine, jobs)
    assert all(one.finish_s < inf and one.first_s <= one.finish_s for one in done)
    assert engine.ranks[0].running == 0
    assert engine.ranks[0].cached_tokens == 0
    assert len(engine.ranks[0].queue) == 0


def test_shortest_first_lowers_the_mean_wait_of_a_full_engine() -> None:
    def mean_wait(policy: str) -> float:
        rng = np.random.default_rng(2)
        jobs = [request(0.0, int(n), 0, guess=0.0) for n in rng.integers(50, 4000, 80)]
        run(Engine(model=model(), decodes=False, queue=POLICIES.get(policy)), jobs)
        return float(np.mean([one.first_s for one in jobs]))

    assert mean_wait("shortest-predicted") < 0.8 * mean_wait("fcfs")


def test_the_last_to_start_is_thrown_back_when_caches_outgrow_the_memory() -> None:
    engine = Engine(model=model(cache_tokens=1500))
    first, second = run(engine, [request(0.0, 600, 400), request(0.0, 600, 400)])
    assert (first.interruptions, second.interruptions) == (0, 1)
    assert first.finish_s < second.finish_s
    assert (second.steps + second.produced, first.steps) == (400, 400)
    assert engine.tally.interruptions == 1
    assert engine.ranks[0].cached_tokens == 0
    assert engine.tally.held_peak <= 1500 + 2


def test_memory_for_all_means_nobody_is_thrown_back() -> None:
    engine = Engine(model=model(cache_tokens=2000))
    run(engine, [request(0.0, 600, 400), request(0.0, 600, 400)])
    assert engine.tally.interruptions == 0


def test_a_straggler_takes_its_factor_longer() -> None:
    (plain,) = run(Engine(model=model()), [request()])
    (slow,) = run(Engine(model=model(), slowdown=1.5), [request()])
    assert slow.first_s == pytest.approx(1.5 * plain.first_s)
    assert slow.finish_s == pytest.approx(1.5 * plain.finish_s)


def test_a_failed_engine_gives_all_its_requests_back() -> None:
    engine = Engine(model=model(max_sequences=2))
    jobs = [request(0.0, 500, 200) for _ in range(4)]
    for one in jobs:
        engine.ranks[0].admit(one)
    engine.advance(0.5)
    lost = engine.fail(0.5, 10.0)
    assert sorted(map(id, lost)) == sorted(map(id, jobs))
    assert not engine.is_up(9.9)
    assert engine.is_up(10.0)
    assert all(one.steps + one.produced == 200 for one in jobs)
    assert any(one.produced > 0 for one in jobs)
    for one in lost:
        engine.ranks[0].admit(one)
    engine.advance(inf)
    assert all(10.0 < one.finish_s < inf for one in jobs)


def test_a_prefix_on_the_device_is_not_computed_again() -> None:
    blocks = (1, 2, 3)
    engine = Engine(model=model(block_tokens=100))
    first, second = run(engine, [request(0.0, 350, 5, blocks=blocks), request(5.0, 350, 5, blocks=blocks)])
    assert (first.cached, second.cached) == (0, 300)
    assert second.first_s - 5.0 < first.first_s
    cache = engine.ranks[0].prefixes
    assert cache is not None
    assert cache.hit_blocks == 3
    assert cache.pinned_tokens == 0
    assert engine.ranks[0].cached_tokens == 0


def test_a_prompt_that_is_all_cached_still_computes_its_last_token() -> None:
    engine = Engine(model=model(block_tokens=100))
    _, second = run(engine, [request(0.0, 300, 5, blocks=(1, 2, 3)), request(5.0, 300, 5, blocks=(1, 2, 3))])
    assert second.new == 1


def test_the_least_recently_used_block_leaves_first_and_waits_in_the_tier_below() -> None:
    below = Store(tier=Tier(name="dram", capacity_tokens=200, tokens_per_s=1000.0))
    cache = PrefixCache(block_tokens=100, stores=[below])
    for block in (1, 2, 3, 4):
        cache.pin((block,))
        cache.unpin((block,))
    cache.shrink(100)
    assert cache.on_device((4,)) == 1
    assert list(below.blocks) == [2, 3]
    assert cache.match((3,)) == (1, pytest.approx(0.1))
    assert cache.match((1,)) == (0, 0.0)


def test_blocks_in_use_never_leave() -> None:
    cache = PrefixCache(block_tokens=100)
    cache.pin((1, 2))
    cache.shrink(0)
    assert cache.on_device((1, 2)) == 2


def ranks(*loads: int) -> list[Rank]:
    found = [Rank(num_lanes=1, prefixes=PrefixCache(block_tokens=100)) for _ in loads]
    for rank, load in zip(found, loads, strict=True):
        rank.running = load
    return found


def test_routers_choose_as_they_say() -> None:
    three = ranks(5, 2, 9)
    one = request()
    assert ROUTERS.get("least-loaded")(0).choose(three, one) == 1
    turns = ROUTERS.get("round-robin")(0)
    assert [turns.choose(three, one) for _ in range(4)] == [0, 1, 2, 0]
    two = ROUTERS.get("power-of-two")(0)
    assert [two.choose(three, one) for _ in range(200)].count(2) < 45
    assert {ROUTERS.get("random")(seed).choose(three, one) for seed in range(20)} == {0, 1, 2}


def test_prefix_aware_routing_weighs_a_prefix_against_load() -> None:
    router = ROUTERS.get("prefix-aware")(0)
    pair = ranks(0, 0)
    prefixes = pair[1].prefixes
    assert prefixes is not None
    prefixes.pin((7, 8))
    assert router.choose(pair, request(new=250, blocks=(7, 8))) == 1
    assert router.choose(pair, request(new=250)) == 0
    pair[1].admit(request(new=5000))
    assert router.choose(pair, request(new=250, blocks=(7, 8))) == 0
