"""Every example runs and decides what is written beside it.

To accept changed decisions: NEWEL_UPDATE_GOLDEN=1 pytest tests/examples
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.backends import BACKENDS, ExportOptions
from planner.cli.main import main
from planner.errors import EXIT_INFEASIBLE, EXIT_OK
from planner.plan.schema import Plan
from planner.plan.serialize import read_plan

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "examples").glob("[0-9]*/spec.yaml"))


def _decisions(plan: Plan) -> dict[str, Any]:
    goal = plan.objective
    return {
        "status": plan.status,
        "objective": {"name": goal.name, "unit": goal.unit, "value": goal.value},
        "pools": [
            {
                "role": pool.role,
                "replicas": pool.replicas,
                "device": pool.device,
                "strategy": {k: v for k, v in pool.strategy.model_dump().items() if v > 1},
                "weight_dtype": pool.weight_dtype,
                "kv_dtype": pool.kv_dtype,
            }
            for pool in plan.pools
        ],
        "binding": [limit.name for limit in plan.infeasibility.binding] if plan.infeasibility else [],
    }


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.parent.name)
def test_example_decides_as_expected(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    code = main(["plan", str(spec), "-o", str(out)])
    captured = capsys.readouterr()
    assert captured.out == ""
    plan = read_plan(out)
    assert code == (EXIT_INFEASIBLE if plan.status == "infeasible" else EXIT_OK)
    assert plan.name in captured.err
    expected = spec.parent / "expected.json"
    found = _decisions(plan)
    if os.environ.get("NEWEL_UPDATE_GOLDEN"):
        expected.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    wanted = json.loads(expected.read_text(encoding="utf-8"))
    value, wanted_value = found["objective"].pop("value"), wanted["objective"].pop("value")
    assert (value is None) == (wanted_value is None)
    if value is not None:
        assert value == pytest.approx(wanted_value, rel=1e-6)
    assert found == wanted
    if plan.kind == "serving" and plan.pools:
        assert BACKENDS.get(plan.pools[0].engine).export(plan, ExportOptions())


def test_every_example_is_in_the_list() -> None:
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert [spec.parent.name for spec in SPECS if spec.parent.name not in listed] == []
    assert len(SPECS) >= 5


def test_the_library_example_runs(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "examples" / "06_library.py"), str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("optimal: min_devices = ")
    assert (tmp_path / "plan.json").is_file()
    assert any((tmp_path / "launch").iterdir())
