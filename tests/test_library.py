"""The library's front door: functions that stay callable whatever has been imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import InputError

ROOT = Path(__file__).resolve().parents[1]

ORDERS = [
    "from planner import plan, verify, export, load, save",
    "import planner.plan.schema, planner.verify; from planner import plan, verify, export, load, save",
    "import planner; import planner.plan.serialize; plan, verify = planner.plan, planner.verify",
    "from planner import plan, verify; import planner.plan.schema as s, planner.verify as v; s.Plan, v.RULES",
]


@pytest.mark.parametrize("imports", ORDERS)
def test_functions_are_callable_in_any_order_of_imports(imports: str) -> None:
    code = f"""{imports}
from planner.errors import InputError
try:
    plan("no/such/spec.yaml")
except InputError as error:
    print(error)
try:
    verify("no/such/plan.json")
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "no/such/spec.yaml: no such file",
        "no/such/plan.json: cannot read the plan: No such file or directory",
    ]


def test_wrong_values_are_input_errors() -> None:
    from planner import plan

    with pytest.raises(InputError, match="not plain data"):
        plan(model={1, 2})
    with pytest.raises(InputError, match="the spec is empty"):
        plan({})
