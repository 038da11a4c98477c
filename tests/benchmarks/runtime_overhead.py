"""What running a plan costs this program: many graphs at once on one core, a pretended endpoint beside it.

    python tests/benchmarks/runtime_overhead.py --graphs 200

The endpoint has a process of its own. Given as JSON: CPU time of this process per call (streaming included),
and by how much a run is longer than its pretended times, per call of its longest path.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from planner.pipeline import Run, make_plan
from planner.runtime import RunResult, Runtime, bind

TOKENS, PATH_CALLS = 16, 3
LENGTH = f"{{mean: {TOKENS}, limit: {TOKENS}}}"
GRAPH = f"""\
kind: agents
name: overhead
models: {{m: {{prefill_tokens_per_s: 1e7, decode_s_per_token: STEP, overhead_s: STEP, slots: 100000}}}}
nodes:
  plan: {{model: m, prompt: [input], output: {LENGTH}}}
  a: {{model: m, prompt: [input, {{from: plan}}], output: {LENGTH}}}
  b: {{model: m, prompt: [input, {{from: plan}}], output: {LENGTH}}}
  c: {{model: m, prompt: [input, {{from: plan}}], output: {LENGTH}}}
  merge: {{model: m, prompt: [{{from: a}}, {{from: b}}, {{from: c}}], output: {LENGTH}}}
"""


def measured(num_graphs: int, repeats: int, step_s: float) -> dict[str, float]:
    """Return the figures of `num_graphs` graphs at once, each started `repeats` times; `step_s` per token."""
    ideal_s = PATH_CALLS * (1 + TOKENS) * step_s
    with TemporaryDirectory() as folder:
        spec = Path(folder) / "spec.yaml"
        spec.write_text(GRAPH.replace("STEP", str(step_s)))
        plan = make_plan(spec, Run())
    command = [sys.executable, "-m", "planner.runtime.fake_endpoint"]
    command += ["--decode-s", str(step_s), "--overhead-s", str(step_s), "--prefill-tokens-per-s", "1e7"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        try:
            if hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, cores[:1])
                os.sched_setaffinity(process.pid, cores[-1:])

            async def work() -> tuple[list[RunResult], float, float]:
                found = list[RunResult]()
                async with Runtime(plan, bind({"m": url})) as runtime:

                    async def user(number: int) -> None:
                        """Run one graph after the other; users begin spread over the length of a run."""
                        await asyncio.sleep(ideal_s * number / num_graphs)
                        for i in range(repeats):
                            found.append(await runtime.run(f"{number} {i}"))

                    await runtime.run("warm")
                    cpu, begin = time.process_time(), time.perf_counter()
                    await asyncio.gather(*(user(i) for i in range(num_graphs)))
                    return found, time.process_time() - cpu, time.perf_counter() - begin

            results, cpu_s, wall_s = asyncio.run(work())
        finally:
            process.kill()
    num_calls = sum(c.num_attempts for r in results for c in r.calls)
    late_s = sorted(r.latency_s - ideal_s for r in results)
    return {
        "graphs": num_graphs,
        "calls": num_calls,
        "cpu_ms_per_call": round(cpu_s / num_calls * 1e3, 3),
        "wall_s": round(wall_s, 3),
        "core_busy": round(cpu_s / wall_s, 3),
        "ideal_run_s": round(ideal_s, 3),
        "median_run_s": round(late_s[len(late_s) // 2] + ideal_s, 3),
        "median_late_ms_per_call_in_a_row": round(late_s[len(late_s) // 2] / PATH_CALLS * 1e3, 3),
        "framework_ms_per_call": round(sum(r.framework_s for r in results) / num_calls * 1e3, 3),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--graphs", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--step-s", type=float, default=0.1, help="pretended seconds per token")
    given = parser.parse_args()
    sys.stdout.write(json.dumps(measured(given.graphs, given.repeats, given.step_s), indent=2) + "\n")
