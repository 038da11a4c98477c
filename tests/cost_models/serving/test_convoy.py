"""The rule of pipelined serving against a flow shop that is played stage by stage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from cost_models.serving.convoy import Convoy, cycle_s


def flow_shop(steps: list[float], shares: list[float], ready: list[float]) -> list[float]:
    """Return when each step has left the last stage; as many are in flight as there are stages."""
    free = [0.0] * len(shares)
    left: list[float] = []
    for at, step in enumerate(steps):
        now = max(ready[at], left[at - len(shares)] if at >= len(shares) else 0.0)
        for stage, share in enumerate(shares):
            free[stage] = now = max(now, free[stage]) + step * share
        left.append(now)
    return left


@pytest.mark.parametrize("stages", [1, 2, 3, 5])
def test_steps_of_any_length_leave_as_from_a_flow_shop(stages: int) -> None:
    rng = np.random.default_rng(stages)
    for _ in range(20):
        steps = rng.choice([0.01, 0.012, 0.1, 0.5], size=40).tolist()
        ready = np.cumsum(rng.exponential(0.02, 40)).tolist()
        convoy = Convoy(num_stages=stages)
        told = [convoy.run(step, step * stages, at) for step, at in zip(steps, ready, strict=True)]
        assert told == pytest.approx(flow_shop(steps, [1.0] * stages, ready))


@pytest.mark.parametrize("slowest", [0, 1, 2])
def test_a_slower_stage_sets_the_pace_wherever_it_is(slowest: int) -> None:
    shares = [0.8, 0.8, 0.8]
    shares[slowest] = 1.0
    rng = np.random.default_rng(7)
    steps = rng.choice([0.01, 0.011, 0.05], size=120).tolist()
    convoy = Convoy(num_stages=3)
    for step in steps:
        last = convoy.run(step, step * sum(shares))
    assert last == pytest.approx(flow_shop(steps, shares, [0.0] * 120)[-1], rel=0.03)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_alike_steps_come_round_as_often_as_is_told(stages: int) -> None:
    for lane_steps in product([0.0, 0.01, 0.013, 0.04], repeat=stages):
        if not any(lane_steps):
            continue
        rounds = 40
        left = flow_shop(list(lane_steps) * rounds, [1.0] * stages, [0.0] * stages * rounds)
        period = (left[-1] - left[-1 - 20 * stages]) / 20
        told = cycle_s([(step, step * stages) for step in lane_steps])
        assert told == pytest.approx(period), lane_steps


def test_what_is_in_flight_can_be_put_off() -> None:
    steps = [0.01] * 8 + [0.05] * 3
    one, other = Convoy(num_stages=4), Convoy(num_stages=4)
    for step in steps[:8]:
        one.run(step, 4 * step)
        other.run(step, 4 * step)
    other.delay(0.3)
    for step in steps[8:]:
        assert other.run(step, 4 * step) == pytest.approx(one.run(step, 4 * step) + 0.3)
    one.drain()
    assert one.enters_s() == one.last_s
