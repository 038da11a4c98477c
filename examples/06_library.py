"""Plan, check and export from Python; run with a folder to write to."""

from __future__ import annotations

import sys
from pathlib import Path

from planner import export, plan, save, verify

found = plan(
    model="llama-3.1-8b",
    cluster="2xh100",
    workload={"input_tokens": 1000, "output_tokens": 200, "rate": "4/s"},
    slo={"ttft": "500ms", "tpot": "20ms"},
    objective="min_devices",
)
print(f"{found.status}: {found.objective.name} = {found.objective.value:g} (gap {found.objective.gap:g})")
for pool in found.pools:
    print(f"{pool.replicas} x tp{pool.strategy.tp} pp{pool.strategy.pp} on {pool.device}, {pool.engine}")

assert verify(found).passed
out = Path(sys.argv[1] if len(sys.argv) > 1 else "library-out")
files = export(found, to="vllm", out=out / "launch")
save(found, out / "plan.json")
print(f"wrote {len(files)} launch files and plan.json to {out}")
