"""Closed loops against numbers worked out by hand, and against the step patterns of the cost model."""

from __future__ import annotations

from math import inf, isclose

import numpy as np
import pytest

from planner.cli._accuracy_serving import find_group, find_model
from planner.ir.strategy import ServingStrategy
from planner.ir.workload import Lengths, ServingWorkload, Slo
from planner.simulate.fixed import FixedLoad, FixedSimulator, SimulatedRun
from planner.simulate.serving_engine import Engine
from planner.simulate.serving_loop import ClosedLoop
from planner.simulate.serving_request import Request
from planner.space.engine import installed_costs
from planner.space.evaluate import Evaluator, FixedReplica

from .test_serving_engine import model, step_s


def requests(count: int, new: int = 400, steps: int = 10) -> list[Request]:
    return [Request(arrival_s=0.0, cached=0, new=new, steps=steps) for _ in range(count)]


def test_one_client_sends_one_request_after_the_other() -> None:
    done = requests(5)
    ClosedLoop(halves=[[Engine(model=model())]], num_clients=1).run(done)
    once = step_s(400) + 10 * step_s(1)
    for number, one in enumerate(done):
        assert isclose(one.arrival_s, number * once)
        assert isclose(one.finish_s, (number + 1) * once)


def test_never_more_requests_are_inside_than_there_are_clients() -> None:
    rng = np.random.default_rng(4)
    done = [
        Request(arrival_s=0.0, cached=0, new=int(n), steps=int(s))
        for n, s in zip(rng.integers(20, 900, 90), rng.integers(0, 50, 90), strict=True)
    ]
    engines = [[Engine(model=model(ranks=2)), Engine(model=model(ranks=2))]]
    ClosedLoop(halves=engines, num_clients=7).run(done)
    assert all(one.finish_s < inf for one in done)
    ends = sorted((one.arrival_s, 1) for one in done) + sorted((one.finish_s, -1) for one in done)
    inside = np.cumsum([change for _, change in sorted(ends, key=lambda e: (e[0], e[1]))])
    assert inside.max() == 7
    assert {one.place for one in done} == {0, 1}


def test_caches_cross_from_prefill_to_decode() -> None:
    first, second = Engine(model=model(), decodes=False), Engine(model=model(), prefills=False)
    done = requests(3)
    ClosedLoop(halves=[[first], [second]], num_clients=1, transfer_s=lambda r: 1e-3 * r.context).run(done)
    for one in done:
        assert isclose(one.first_s - one.arrival_s, step_s(400) + 0.4)
        # Nothing waits at the idle decode worker: a step to take the request in, then its ten tokens.
        assert one.finish_s - one.first_s == pytest.approx(10 * step_s(1), abs=2 * step_s(1))
        assert one.place == 1


def test_who_ends_together_is_not_sent_again_together() -> None:
    def mean_wait(admitted: int) -> float:
        done, engine = requests(160, new=200, steps=40), Engine(model=model(token_budget=4000))
        ClosedLoop(halves=[[engine]], num_clients=16, admitted_per_step=admitted).run(done)
        return float(np.mean([one.first_s - one.arrival_s for one in done]))

    assert mean_wait(1) < 0.7 * mean_wait(100)


def test_engines_have_clients_by_their_shares() -> None:
    done = requests(60)
    engines = [Engine(model=model()) for _ in range(2)]
    ClosedLoop(halves=[engines], shares=[[3.0, 1.0]], num_clients=8).run(done)
    first = [one.place for one in done[:8]]
    assert (first.count(0), first.count(1)) == (6, 2)


def evaluator(lengths: Lengths, concurrency: int) -> Evaluator:
    group = find_group("h100", 8)
    return Evaluator(
        model=find_model("llama-3.1-70b"),
        group=group,
        costs=installed_costs(group, "trtllm"),
        workload=ServingWorkload(lengths=lengths, slo=Slo(), concurrency=concurrency),
    )


@pytest.mark.parametrize(("concurrency", "replicas", "tp"), [(4, 1, 8), (64, 1, 8), (48, 2, 4)])
def test_two_ways_of_following_clients_agree(concurrency: int, replicas: int, tp: int) -> None:
    """The cost model follows the same clients by counting steps, the simulator by running engines."""
    spread = Lengths(samples=tuple((900 + 10 * k, 150 + 5 * (7 * k % 20), 0.05) for k in range(20)))
    asked = evaluator(spread, concurrency)
    fixed = FixedReplica(strategy=ServingStrategy(tp=tp, pp=1), weight_fmt="fp8", replicas=replicas)
    claimed = asked.evaluate(fixed)
    seen = FixedSimulator().run(asked, [fixed], FixedLoad(num_clients=concurrency))
    assert claimed is not None
    assert seen is not None
    assert seen.e2e_s.mean() == pytest.approx(claimed.e2e_s, rel=0.03)
    assert seen.tpot_s.mean() == pytest.approx(claimed.tpot_s, rel=0.03)
    assert seen.ttft_s.mean() == pytest.approx(claimed.ttft_s, rel=0.10)


@pytest.mark.parametrize("wait_steps", [0, 60])
def test_two_ways_of_following_ranks_that_wait_for_each_other_agree(wait_steps: int) -> None:
    spread = Lengths(samples=tuple((900 + 10 * k, 150 + 5 * (7 * k % 20), 0.05) for k in range(20)))
    group = find_group("h100", 8)
    asked = Evaluator(
        model=find_model("qwen3-30b-a3b"),
        group=group,
        costs=installed_costs(group, "trtllm"),
        workload=ServingWorkload(lengths=spread, slo=Slo(), concurrency=64),
    )
    fixed = FixedReplica(
        strategy=ServingStrategy(tp=1, pp=1, attention_dp=4, ep=4, moe_tp=1),
        weight_fmt="bf16",
        prompt_wait_steps=wait_steps,
    )
    claimed = asked.evaluate(fixed)
    seen = FixedSimulator().run(asked, [fixed], FixedLoad(num_clients=64))
    assert claimed is not None
    assert seen is not None
    assert seen.e2e_s.mean() == pytest.approx(claimed.e2e_s, rel=0.03)
    assert seen.ttft_s.mean() == pytest.approx(claimed.ttft_s, rel=0.10)


def run_at(tokens: int, load: FixedLoad) -> SimulatedRun:
    asked = evaluator(Lengths(samples=((tokens, 200, 1.0),)), 1)
    fixed = FixedReplica(strategy=ServingStrategy(tp=8, pp=1), weight_fmt="fp8")
    seen = FixedSimulator().run(asked, [fixed], load)
    assert seen is not None
    return seen


def test_longer_contexts_take_longer_steps_whatever_the_workload_says() -> None:
    from planner.ir.trace import RequestTrace

    def trace(tokens: int) -> FixedLoad:
        count = 40
        return FixedLoad(
            trace=RequestTrace(
                source="made",
                arrival_s=tuple(0.01 * k for k in range(count)),
                input_tokens=(tokens,) * count,
                output_tokens=(200,) * count,
            )
        )

    own, told = run_at(8000, trace(8000)), run_at(1000, trace(8000))
    short = run_at(1000, trace(1000))
    assert told.tpot_s.mean() == pytest.approx(own.tpot_s.mean(), rel=0.02)
    assert told.tpot_s.mean() > 1.1 * short.tpot_s.mean()


def test_what_does_not_fit_is_not_simulated() -> None:
    asked = evaluator(Lengths(samples=((1000, 200, 1.0),)), 1)
    fixed = FixedReplica(strategy=ServingStrategy(tp=1, pp=1), weight_fmt="bf16")
    assert FixedSimulator().run(asked, [fixed], FixedLoad(num_clients=1)) is None


def test_room_for_outputs_keeps_requests_from_being_thrown_back() -> None:
    def interruptions(share: float) -> int:
        engine = Engine(model=model(cache_tokens=3000, reserved_share=share))
        for one in requests(20, new=500, steps=300):
            engine.ranks[0].admit(one)
        engine.advance(inf)
        assert engine.ranks[0].promised_tokens == pytest.approx(0.0)
        assert (engine.ranks[0].context_tokens, engine.ranks[0].decoding) == (0, 0)
        return engine.tally.interruptions

    assert interruptions(1.0) == 0
    assert interruptions(0.0) > 0
