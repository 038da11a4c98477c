"""Operations beside published runs. The figures are facts of the named papers."""

from __future__ import annotations

import pytest

from cost_models.operations.checkpoints import CheckpointTier, best_plan, daly_interval_s
from cost_models.operations.failures import PUBLISHED, job_mtbf_s
from cost_models.operations.runs import run_cost_usd, run_time

HOUR = 3600.0


def test_llama_3_405b_is_interrupted_every_three_hours() -> None:
    """419 interruptions in 54 days on 16,384 GPUs: one in 3.09 h."""
    mtbf = job_mtbf_s(PUBLISHED["llama-3-405b"].device_mtbf_s, 16384)
    assert mtbf == pytest.approx(54 * 24 / 419 * HOUR)


def test_llama_3_405b_is_more_than_90_percent_effective() -> None:
    """Its states (14 bytes per parameter) go to storage that takes 2 TB/s (both in the paper, section 3.3).

    The paper names neither restart time nor interval. More than 90 % follows from restarts within a quarter
    of an hour, and no longer from restarts of half an hour.
    """
    mtbf = job_mtbf_s(PUBLISHED["llama-3-405b"].device_mtbf_s, 16384)
    seconds = 405e9 * 14 / 2e12
    tier = CheckpointTier(name="Tectonic", blocking_s=seconds, load_s=seconds)
    quick = best_plan([tier], mtbf, 15 * 60.0)
    slow = best_plan([tier], mtbf, 30 * 60.0)
    assert quick is not None
    assert slow is not None
    assert quick.efficiency > 0.90
    assert slow.efficiency < 0.90


def test_gpu_hours_of_llama_3_1_405b() -> None:
    """Its model card states 30.84 million GPU-hours; the paper 15.6T tokens at some 400 TFLOP/s per GPU.

    6 FLOPs per parameter and token at that speed, and the failures above, leave the phases in which the run
    was slower (a smaller batch at its start, long contexts at its end) unpriced: ours is below, within 10 %.
    """
    mtbf = job_mtbf_s(PUBLISHED["llama-3-405b"].device_mtbf_s, 16384)
    seconds = 405e9 * 14 / 2e12
    tier = CheckpointTier(name="Tectonic", blocking_s=seconds, load_s=seconds)
    plan = best_plan([tier], mtbf, 15 * 60.0)
    assert plan is not None
    work = 6 * 405e9 * 15.6e12 / (16384 * 400e12)
    wall = run_time(work, plan, mtbf_s=mtbf, restart_s=15 * 60.0).wall_s
    assert 0.9 < 16384 * wall / HOUR / 30.84e6 < 1.0
    assert run_cost_usd(wall, 16384, 2.0) == pytest.approx(2.0 * 16384 * wall / HOUR)


@pytest.mark.parametrize(("num_gpus", "hours"), [(16_384, 1.8), (131_072, 0.23)])
def test_mtbf_of_large_jobs_on_rsc_1(num_gpus: int, hours: float) -> None:
    """Kokolis et al., HPCA 2025: projected from 6.50 failures per 1,000 node-days."""
    found = job_mtbf_s(PUBLISHED["meta-rsc-1"].device_mtbf_s, num_gpus)
    assert found / HOUR == pytest.approx(hours, rel=0.03)


@pytest.mark.parametrize(("num_gpus", "minutes"), [(100_000, 30), (1_000_000, 3)])
def test_failures_of_clusters_of_h100(num_gpus: int, minutes: float) -> None:
    """Epoch AI, Hardware failures won't limit AI scaling (2024): one failure per H100 in 50,000 h."""
    assert job_mtbf_s(50_000 * HOUR, num_gpus) / 60 == pytest.approx(minutes)
    # The rate of the Llama 3 run is that of one failure in 50,000 h to 2 %.
    assert PUBLISHED["llama-3-405b"].device_mtbf_s / HOUR == pytest.approx(50_000, rel=0.02)


def test_interval_of_daly() -> None:
    """Worked by hand from equation 37 of Daly (2006): 5 minutes to write, failures every 24 h."""
    assert daly_interval_s(300.0, 24 * HOUR) == pytest.approx(
        7200 * (1 + 0.041667 / 3 + 0.00173611 / 9) - 300, rel=1e-6
    )
