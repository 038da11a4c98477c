"""Engines are planned on devices that they run on, in every step from the spec to the checker."""

from __future__ import annotations

import pytest

from planner import plan, verify
from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.pipeline import Run, make_plan

SPEC = {
    "model": "qwen3-8b",
    "engine": "trtllm",
    "workload": {"input_tokens": 500, "output_tokens": 100, "rate": "2/s"},
    "objective": "min_devices",
}


def test_an_engine_on_a_foreign_device_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="mi300x") as caught:
        plan(SPEC, cluster="8xmi300x")
    assert caught.value.key == "engine"
    assert caught.value.value == "trtllm"


def test_in_a_mixed_cluster_the_engine_stays_on_its_devices() -> None:
    run = Run(diagnostics=Diagnostics())
    found = make_plan({**SPEC, "cluster": "2xh100+2xmi300x"}, run)
    assert {pool.device for pool in found.pools} == {"h100"}
    assert "engine-device" in {item.code for item in run.diagnostics.entries}


def test_the_checker_refuses_such_a_pool() -> None:
    found = plan(SPEC, cluster="2xh100+2xmi300x")
    moved = found.pools[0].model_copy(update={"node_group": "mi300x", "device": "mi300x"})
    report = verify(found.model_copy(update={"pools": [moved]}))
    assert "choices" in report.failed_rules
    assert "does not run on" in str(report.as_dict())
