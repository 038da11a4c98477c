"""Engines of several stages against a pipeline that is played stage by stage, one step after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import numpy as np
import pytest

from planner.simulate.serving_engine import Engine, Request
from planner.simulate.serving_times import Batch

from .test_serving_engine import model, request, run, step_s

BUDGET = 512


@dataclass(kw_only=True)
class Played:
    """Micro-batches in turn; each stage takes a step when it and the stage before are through with it."""

    stages: int
    waiting: list[Request]
    lanes: list[list[int]] = field(default_factory=list)
    told: dict[int, tuple[float, float]] = field(default_factory=dict)

    def play(self) -> None:
        self.lanes = [[] for _ in range(self.stages)]
        free, out = [0.0] * self.stages, [0.0] * self.stages
        news: list[tuple[float, int, list[int], list[Request], int]] = []
        ids = {id(one): number for number, one in enumerate(self.waiting)}
        left = {number: one.steps for number, one in enumerate(self.waiting)}
        total, turn, begun, now = len(self.waiting), 0, 0, 0.0
        first: dict[int, float] = {}
        while len(self.told) < total:
            lane = turn % self.stages
            now = max(now, free[0], out[lane])
            idle = not any(self.lanes) and not any(tokens for _, _, _, _, tokens in news)
            if idle and self.waiting[0].arrival_s > now:
                now = self.waiting[0].arrival_s
            while news and news[0][0] <= now:
                at, of, members, ended, _ = news.pop(0)
                for number in members:
                    left[number] -= 1
                    if not left[number]:
                        self.lanes[of].remove(number)
                        self.told[number] = (first[number], at)
                for one in ended:
                    number = ids[id(one)]
                    first[number] = at
                    min(self.lanes, key=len).append(number)
            members, prompts, room = list(self.lanes[lane]), [], BUDGET - len(self.lanes[lane])
            while room and self.waiting and self.waiting[0].arrival_s <= now:
                count = min(room, self.waiting[0].new - begun)
                room, begun = room - count, begun + count
                if begun == self.waiting[0].new:
                    prompts.append(self.waiting.pop(0))
                    begun = 0
            tokens = BUDGET - room
            seconds = step_s(tokens) if tokens else 0.0
            at = now
            for stage in range(self.stages):
                free[stage] = at = max(at, free[stage]) + seconds
            out[lane] = at
            news.append((at, lane, members, prompts, tokens))
            turn += 1


@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("gap_s", [0.0, 0.02, 0.3])
def test_every_token_comes_when_the_stages_played_one_by_one_bring_it(stages: int, gap_s: float) -> None:
    rng = np.random.default_rng(stages)
    count = 40
    arrivals = np.cumsum(rng.exponential(gap_s, count)) if gap_s else np.zeros(count)
    lengths, steps = rng.integers(20, 900, count).tolist(), rng.integers(1, 80, count).tolist()
    wanted = list(zip(arrivals.tolist(), lengths, steps, strict=True))
    done = run(Engine(model=model(stages=stages, max_sequences=10**6)), [request(*one) for one in wanted])
    played = Played(stages=stages, waiting=[request(*one) for one in wanted])
    played.play()
    for number, one in enumerate(done):
        assert (one.first_s, one.finish_s) == pytest.approx(played.told[number], rel=2e-4), number


def test_a_failure_in_a_pipeline_loses_nothing() -> None:
    engine = Engine(model=model(stages=3, cache_tokens=6000))
    everyone = [request(0.01 * k, 400, 30) for k in range(40)]
    for one in everyone[:20]:
        engine.advance(one.arrival_s)
        engine.ranks[0].admit(one)
    lost = engine.fail(0.2, 1.0)
    for one in [*lost, *everyone[20:]]:
        engine.ranks[0].admit(one)
    engine.advance(inf)
    assert all(1.0 < one.finish_s < inf or one not in lost for one in everyone)
    assert all(one.steps + one.produced == 30 for one in everyone)
    rank = engine.ranks[0]
    assert (rank.running, rank.decoding, rank.context_tokens, rank.cached_tokens) == (0, 0, 0, 0.0)


def test_experts_are_shared_by_all_ranks() -> None:
    from dataclasses import replace

    times = replace(model().times, shared=([0.001 * m for m in range(4096)],))
    one = Batch(100, 0, [], 0.0)
    alone, _ = times.step_s([one, Batch(0, 0, [], 0.0), Batch(0, 0, [], 0.0), Batch(0, 0, [], 0.0)])
    everyone, _ = times.step_s([one] * 4)
    assert alone == pytest.approx(step_s(100) + 0.001 * 25)
    assert everyone == pytest.approx(step_s(100) + 0.001 * 100)
