"""Many runs on Ray: split limits, clear errors; the pool itself where Ray is installed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.plan.schema import Plan
from planner.runtime import bind
from planner.runtime.ray_pool import PoolOptions, run_many, shared

PlanOf = Callable[[str], Plan]
HAS_RAY = importlib.util.find_spec("ray") is not None
GRAPH = """\
kind: agents
models:
  m:
    {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.002, overhead_s: 0, slots: 40, calls_per_minute: 60000}
nodes:
  a: {model: m, prompt: [input], output: {mean: 8, limit: 8}}
  b: {model: m, prompt: [input], output: {mean: 8, limit: 8}}
  z: {model: m, prompt: [{from: a}, {from: b}], output: {mean: 8, limit: 8}}
"""


def test_limits_are_split_over_workers(plan_of: PlanOf) -> None:
    plan = plan_of(GRAPH)
    found = shared(bind({"*": {"url": "http://x/v1", "concurrency": 11}}), plan, 4).endpoints["m"]
    assert (found.concurrency, found.calls_per_minute) == (2, 15000)
    with pytest.raises(InputError, match="fewer calls at once"):
        shared(bind({"m": {"url": "http://x/v1", "concurrency": 3}}), plan, 4)


@pytest.mark.skipif(HAS_RAY, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(plan_of: PlanOf) -> None:
    with pytest.raises(InputError, match=r"newel\[ray\]"):
        next(run_many(plan_of(GRAPH), ["q"], {"m": "http://x/v1"}))


@pytest.mark.skipif(not HAS_RAY, reason="needs Ray")
def test_many_runs_are_spread_and_none_is_lost(plan_of: PlanOf, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "planner.runtime.fake_endpoint", "--decode-s", "0.002"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        options = PoolOptions(num_workers=2, runs_per_worker=20, journals=tmp_path)
        found = list(run_many(plan_of(GRAPH), (f"q{i}" for i in range(60)), {"m": url}, options=options))
        process.kill()
    assert sorted(run.index for run in found) == list(range(60))
    assert {run.worker for run in found} == {0, 1}
    assert all(run.text.startswith("w0 w1") and not run.error for run in found)
    assert len(list(tmp_path.glob("*.journal"))) == 60
