"""Checkpoint intervals and efficiencies against search on a grid and against simulated failures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cost_models.operations.checkpoints import (
    CheckpointPlan,
    CheckpointTier,
    best_interval_s,
    best_plan,
    daly_interval_s,
    efficiency,
    two_tier_efficiency,
    young_interval_s,
)
from cost_models.operations.runs import run_time

HOUR = 3600.0


class _Simulation:
    """A run under failures drawn at random, one event after the other; nothing of the model is used."""

    def __init__(self, plan: CheckpointPlan, mtbf_s: float, restart_s: float) -> None:
        self.plan, self.mtbf_s, self.restart_s = plan, mtbf_s, restart_s
        self.rng = np.random.default_rng(3)
        self.now = 0.0
        self.next_failure = self._draw()

    def _draw(self) -> float:
        return self.now + float(self.rng.exponential(self.mtbf_s))

    def _pass(self, length: float) -> bool:
        """Let time go on; False if a failure strikes first."""
        if self.next_failure < self.now + length:
            self.now = self.next_failure
            self.next_failure = self._draw()
            return False
        self.now += length
        return True

    def run(self, num_segments: int) -> float:
        plan = self.plan
        done = 0
        quick_at: list[tuple[int, float]] = [(0, -1.0)]
        safe_at: list[tuple[int, float]] = [(0, -1.0)]
        while done < num_segments:
            length = plan.interval_s
            last = (done + 1) % plan.num_segments == 0
            length += plan.quick.blocking_s if plan.quick else 0.0
            length += plan.safe.blocking_s if last else 0.0
            if self._pass(length):
                done += 1
                if plan.quick:
                    quick_at.append((done, self.now + plan.quick.durable_after_s))
                if last:
                    safe_at.append((done, self.now + plan.safe.durable_after_s))
                continue
            survived = plan.quick is not None and self.rng.random() < plan.quick.survives
            copies = quick_at if survived else safe_at
            done = next(at for at, since in reversed(copies) if since <= self.now)
            quick_at, safe_at = (
                [(0, -1.0), *((a, -1.0) for a, s in rows if 0 < a <= done and s <= self.now)]
                for rows in (quick_at, safe_at)
            )
            tier = plan.quick if survived and plan.quick else plan.safe
            while not self._pass(self.restart_s + tier.load_s):
                pass
        return num_segments * plan.interval_s / self.now


def _single(**changes: float) -> CheckpointPlan:
    tier = CheckpointTier(name="store", blocking_s=60.0, load_s=120.0)
    return CheckpointPlan(
        interval_s=900.0,
        safe=replace(tier, **changes),  # type: ignore[arg-type]
        quick=None,
        num_segments=1,
        efficiency=0.0,
    )


@pytest.mark.parametrize("durable_after_s", [0.0, 400.0, 950.0])
def test_one_tier_is_what_a_simulation_gives(durable_after_s: float) -> None:
    plan = _single(durable_after_s=durable_after_s)
    predicted = efficiency(plan.safe, plan.interval_s, 2 * HOUR, 300.0)
    assert _Simulation(plan, 2 * HOUR, 300.0).run(8_000) == pytest.approx(predicted, rel=0.02)


@pytest.mark.parametrize(("quick_s", "safe_s"), [(0.0, 0.0), (0.0, 2000.0), (60.0, 0.0)])
def test_two_tiers_are_what_a_simulation_gives(quick_s: float, safe_s: float) -> None:
    quick = CheckpointTier(name="peer", blocking_s=5.0, durable_after_s=quick_s, load_s=10.0, survives=0.8)
    safe = CheckpointTier(name="store", blocking_s=90.0, durable_after_s=safe_s, load_s=200.0)
    plan = CheckpointPlan(interval_s=300.0, safe=safe, quick=quick, num_segments=8, efficiency=0.0)
    predicted = two_tier_efficiency(plan, 3 * HOUR, 240.0)
    assert _Simulation(plan, 3 * HOUR, 240.0).run(24_000) == pytest.approx(predicted, rel=0.015)


def test_parts_of_a_run_are_what_a_simulation_gives() -> None:
    plan = _single()
    plan = replace(plan, efficiency=efficiency(plan.safe, plan.interval_s, 2 * HOUR, 300.0))
    found = run_time(1e6, plan, mtbf_s=2 * HOUR, restart_s=300.0, slowest_factor=1.1, speed=0.98)
    assert found.useful_s == 1e6
    assert found.straggler_s == pytest.approx(1e5)
    assert found.wall_s == pytest.approx(1.1e6 / plan.efficiency / 0.98)
    assert found.waiting_s == pytest.approx(found.wall_s * 0.02)
    assert found.checkpoint_s == pytest.approx(1.1e6 / 900 * 60)
    # Failures strike running time; a recovery of 420 s takes 420 s, and a little more for tries that fail.
    assert found.recovery_s / found.num_failures == pytest.approx(420, rel=0.04)
    assert found.lost_s > 0
    assert found.goodput == pytest.approx(1e6 / found.wall_s)


@pytest.mark.parametrize("cost", [1e-4, 0.01, 0.3, 3.0])
def test_best_interval_is_the_best_of_a_grid(cost: float) -> None:
    best = best_interval_s(cost, 1.0)
    tier = CheckpointTier(name="t", blocking_s=cost)
    value = efficiency(tier, best, 1.0, 0.0)
    grid = [efficiency(tier, best * factor, 1.0, 0.0) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)]
    assert value >= max(grid)


def test_estimates_approach_the_exact_interval() -> None:
    for cost in (1e-6, 1e-4, 1e-2):
        exact = best_interval_s(cost, 1.0)
        assert daly_interval_s(cost, 1.0) == pytest.approx(exact, rel=cost)
        assert young_interval_s(cost, 1.0) == pytest.approx(exact, rel=cost**0.5)
    assert daly_interval_s(3.0, 1.0) == 1.0


def test_two_tiers_with_one_segment_and_nothing_lost_are_one_tier() -> None:
    quick = CheckpointTier(name="q", blocking_s=0.0, survives=1.0)
    safe = CheckpointTier(name="s", blocking_s=60.0)
    plan = CheckpointPlan(interval_s=900.0, safe=safe, quick=quick, num_segments=1, efficiency=0.0)
    assert two_tier_efficiency(plan, 7200.0, 300.0) == pytest.approx(efficiency(safe, 900.0, 7200.0, 300.0))


def test_best_plan_takes_what_is_best_of_all() -> None:
    store = CheckpointTier(name="store", blocking_s=60.0, load_s=60.0)
    slow = CheckpointTier(name="slow", blocking_s=600.0, load_s=600.0)
    peer = CheckpointTier(name="peer", blocking_s=1.0, load_s=5.0, survives=0.9)
    alone = best_plan([store, slow], 3 * HOUR, 120.0)
    both = best_plan([slow, peer, store], 3 * HOUR, 120.0)
    assert alone is not None
    assert both is not None
    assert (alone.safe.name, alone.quick) == ("store", None)
    assert both.quick is peer
    assert both.safe is store
    assert both.efficiency > alone.efficiency
    for factor in (0.7, 1.4):
        other = replace(both, interval_s=both.interval_s * factor)
        assert two_tier_efficiency(other, 3 * HOUR, 120.0) < both.efficiency
    for segments in (both.num_segments - 1, both.num_segments + 1):
        other = replace(both, num_segments=segments)
        assert two_tier_efficiency(other, 3 * HOUR, 120.0) < both.efficiency
    assert best_plan([peer], 3 * HOUR, 120.0) is None


def test_a_copy_that_takes_long_spaces_the_checkpoints() -> None:
    tier = CheckpointTier(name="slow link", blocking_s=1.0, durable_after_s=3000.0)
    plan = best_plan([tier], 100 * HOUR, 60.0)
    assert plan is not None
    assert plan.interval_s == pytest.approx(2999.0)
    assert efficiency(tier, 1000.0, 100 * HOUR, 60.0) == 0.0
