"""Synthesised schedules run by torch.distributed.pipelining on CPU processes: same gradients, predicted time.

The runs need torch 2.13 in some interpreter: NEWEL_TORCH_PYTHON=/path/to/python make test-torch. Without it
only the export itself is tested.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest

from planner.backends._torch_pipelining import as_torch_runs_it, torch_csv
from planner.errors import UnsupportedError
from planner.ir.pipeline_schedule import PipelineSchedule
from planner.search.schedule_synthesis import Synthesis, SynthesisOptions, synthesise
from planner.simulate.pipeline_replay import replay
from planner.space.schedule_family import FAMILIES, arrange
from planner.space.schedule_fuse import fuse
from planner.space.schedule_timing import timed

WORKER = Path(__file__).with_name("torch_pipeline_worker.py")
TORCH_PYTHON = os.environ.get("NEWEL_TORCH_PYTHON")
LARGEST_ERROR = 0.06


def _schedule(case: str) -> PipelineSchedule:
    """Return a schedule for sleeping stages: <named or best>-<layout>-<devices>-<micro-batches>-<memory>."""
    name, layout, p, m, memory = case.split("-")
    work = arrange(
        layout,  # type: ignore[arg-type]
        num_devices=int(p),
        num_microbatches=int(m),
        pass_times_s=(0.12, 0.12, 0.06),
        memory_limit_bytes=float(memory) * int(p),
    )
    work = as_torch_runs_it(work)
    if name != "best":
        return fuse(timed(work, FAMILIES.get(name).build(work), name))
    found = synthesise(work, SynthesisOptions(effort=1e5, proof_effort=0.1))
    assert isinstance(found, Synthesis)
    return fuse(found.schedule)


@pytest.mark.parametrize("case", ["best-chain-4-8-1.5", "best-v-4-8-1", "1f1b-chain-2-4-9"])
def test_csv_is_complete_and_in_order(case: str) -> None:
    schedule = _schedule(case)
    lines = torch_csv(schedule).splitlines()
    assert len(lines) == schedule.work.num_devices
    cells = [re.fullmatch(r"(\d+)([FIWB])(\d+)", cell) for line in lines for cell in line.split(",")]
    assert all(cells)
    assert [str(op) for ops in schedule.device_ops for op in ops] == [c[0] for c in cells if c]
    last = len(schedule.work.stages) - 1
    forwards = [int(c[3]) for c in cells if c and c[2] == "F" and int(c[1]) == last]
    # The runtime stores losses as they come and looks them up by micro-batch.
    assert forwards == sorted(forwards)


def test_what_the_runtime_cannot_run_is_refused() -> None:
    work = arrange("two_way", num_devices=4, num_microbatches=8, pass_times_s=(1, 1, 1))
    schedule = timed(work, FAMILIES.get("dualpipe").build(work), "dualpipe")
    with pytest.raises(UnsupportedError, match="all stages"):
        torch_csv(schedule)


def test_first_stage_is_as_the_runtime_treats_it() -> None:
    work = as_torch_runs_it(arrange("chain", num_devices=2, num_microbatches=2, pass_times_s=(1, 2, 3)))
    first, second = work.stages
    assert (first.backward_input_s, first.backward_weight_s) == (0.0, 5.0)
    assert first.weight_activation_bytes == first.activation_bytes
    assert (second.backward_input_s, second.backward_weight_s) == (2.0, 3.0)


@pytest.mark.parametrize("name", ["zb-h1", "zb-h2"])
def test_fusing_changes_no_time(name: str) -> None:
    work = arrange("chain", num_devices=4, num_microbatches=8, pass_times_s=(2, 2, 1), send_s=0.5)
    before = timed(work, FAMILIES.get(name).build(work), name)
    after = fuse(before)
    assert any(op.kind == "B" for ops in after.device_ops for op in ops)
    assert replay(after).makespan_s == pytest.approx(replay(before).makespan_s)
    assert replay(after).peak_memory_bytes == replay(before).peak_memory_bytes


def _run(schedule: PipelineSchedule, folder: Path, num_timed_steps: int) -> tuple[float, list[float]]:
    """Return the largest gradient error and the measured times of the steps."""
    work = schedule.work
    (folder / "schedule.csv").write_text(torch_csv(schedule), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    asleep = [
        # The first stage's two gradients are made in one go; the worker sleeps for both.
        (s.forward_s, s.backward_input_s, s.backward_weight_s)
        for s in work.stages
    ]
    config = {
        "csv": str(folder / "schedule.csv"),
        "num_ranks": work.num_devices,
        "num_microbatches": work.num_microbatches,
        "stage_ranks": [s.device for s in work.stages],
        "stage_times_s": asleep,
        "port": port,
        "num_timed_steps": num_timed_steps,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = [str(TORCH_PYTHON), str(WORKER), str(folder / "config.json")]
    ranks = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for rank in range(work.num_devices)
    ]
    seen: list[dict[str, object]] = []
    for process in ranks:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err[-3000:]
        seen.append(json.loads(out.splitlines()[-1]))
    spans = [[tuple(span) for span in entry["spans"]] for entry in seen]  # type: ignore[attr-defined]
    steps = [
        max(rank[i][1] for rank in spans) - min(rank[i][0] for rank in spans) for i in range(num_timed_steps)
    ]
    return max(float(str(entry["gradient_error"])) for entry in seen), steps


@pytest.mark.slow
@pytest.mark.skipif(TORCH_PYTHON is None, reason="NEWEL_TORCH_PYTHON names no interpreter with torch")
@pytest.mark.parametrize(
    "case",
    [
        "best-chain-2-6-1",
        "best-chain-4-8-1.5",
        "best-chain-4-8-1",
        "best-chain-4-8-0.5",
        "best-v-2-6-1",
        "best-v-4-8-1",
        "1f1b-chain-4-8-9",
    ],
)
def test_run_by_torch(case: str, tmp_path: Path) -> None:
    schedule = _schedule(case)
    error, steps = _run(schedule, tmp_path, num_timed_steps=3)
    predicted = replay(schedule).makespan_s
    measured = sorted(steps)[1]
    print(f"{case}: predicted {predicted:.3f} s, measured {measured:.3f} s, gradient error {error:.1e}")  # noqa: T201
    assert error < 1e-6
    assert abs(measured / predicted - 1) <= LARGEST_ERROR
