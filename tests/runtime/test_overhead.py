"""What running costs this program: under 2 ms per call at 200 graphs at once on one core."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_cpu_time_per_call_at_200_graphs() -> None:
    command = [sys.executable, "tests/benchmarks/runtime_overhead.py", "--graphs", "200", "--repeats", "1"]
    done = subprocess.run(
        [*command, "--step-s", "0.02"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env=_environment(),
    )
    found = json.loads(done.stdout)
    assert found["calls"] == 1000
    assert found["cpu_ms_per_call"] < 2


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT)}
