"""Plans made from text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.pipeline import Run, make_plan
from planner.plan.schema import Plan


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[[str], Plan]:
    def make(text: str) -> Plan:
        spec = tmp_path / "spec.yaml"
        spec.write_text(text)
        return make_plan(spec, Run())

    return make
