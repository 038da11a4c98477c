"""The journal: nothing that was finished is done again, nothing is lost, damage is told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.plan.schema import Plan
from planner.plan.serialize import write_plan
from planner.runtime import RunFailedError, RunOptions, execute
from planner.runtime.fake_endpoint import FakeEndpoint, Pace
from planner.runtime.journal import open_journal

from .beside import MODELS, beside, record

PlanOf = Callable[[str], Plan]
CHAIN = f"""
kind: agents
{MODELS}
nodes:
  a: {{model: m, prompt: [input], output: {{mean: 8, limit: 8}}}}
  b: {{model: m, prompt: [{{from: a}}], output: {{mean: 8, limit: 8}}}}
  c: {{model: m, prompt: [{{from: b}}], output: {{mean: 8, limit: 8}}}}
"""


@pytest.mark.parametrize("sync", ["batch", "each", "none"])
def test_a_failed_run_goes_on_where_it_was(plan_of: PlanOf, tmp_path: Path, sync: str) -> None:
    plan, path = plan_of(CHAIN), tmp_path / "run.journal"
    options = RunOptions(journal=path, sync=sync)  # pyright: ignore

    async def work(endpoint: FakeEndpoint) -> None:
        how = {"m": {"url": endpoint.url, "retries": 0}}
        endpoint.faults.extend(["ok", "500"])
        with pytest.raises(RunFailedError):
            await execute(plan, "q", how, options=options)
        result = await execute(plan, "q", how, options=options)
        assert len(endpoint.seen) == 4
        assert [record(result, n).reused for n in "abc"] == [True, False, False]
        again = await execute(plan, "q", how, options=options)
        assert len(endpoint.seen) == 4
        assert again.text == result.text

    beside(work)


def test_a_killed_process_loses_no_finished_call(plan_of: PlanOf, tmp_path: Path) -> None:
    plan, path = tmp_path / "plan.json", tmp_path / "run.journal"
    write_plan(plan, plan_of(CHAIN))

    async def work(endpoint: FakeEndpoint) -> None:
        endpoints = tmp_path / "endpoints.yaml"
        endpoints.write_text(f"endpoints: {{m: {endpoint.url}}}\n")
        command = [sys.executable, "-m", "planner.cli", "run", str(plan), "-e", str(endpoints), "-t", "q"]
        process = subprocess.Popen(
            [*command, "--journal", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        begin = time.monotonic()
        while len(endpoint.seen) < 2 and time.monotonic() - begin < 8:
            await asyncio.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = len(endpoint.seen)
        assert before == 2
        endpoint.pace = Pace()
        result = await execute(plan, "q", {"m": endpoint.url}, options=RunOptions(journal=path))
        assert [record(result, n).reused for n in "abc"] == [True, False, False]
        assert len(endpoint.seen) == before + 2

    beside(work, Pace(decode_s_per_token=0.03))


def test_a_torn_last_line_is_dropped_and_told(plan_of: PlanOf, tmp_path: Path) -> None:
    plan, path = plan_of(CHAIN), tmp_path / "run.journal"
    options = RunOptions(journal=path)

    async def work(endpoint: FakeEndpoint) -> None:
        await execute(plan, "q", {"m": endpoint.url}, options=options)
        path.write_bytes(path.read_bytes()[:-7])
        result = await execute(plan, "q", {"m": endpoint.url}, options=options)
        assert [record(result, n).reused for n in "abc"] == [True, True, False]
        assert any("cut off" in note for note in result.notes)

    beside(work)


def test_what_does_not_belong_is_refused(plan_of: PlanOf, tmp_path: Path) -> None:
    plan, path = plan_of(CHAIN), tmp_path / "run.journal"
    options = RunOptions(journal=path)

    async def work(endpoint: FakeEndpoint) -> None:
        await execute(plan, "q", {"m": endpoint.url}, options=options)
        with pytest.raises(InputError, match="belongs to another input"):
            await execute(plan, "other", {"m": endpoint.url}, options=options)
        other = plan_of(CHAIN.replace("mean: 8", "mean: 9"))
        with pytest.raises(InputError, match="belongs to another plan"):
            await execute(other, "q", {"m": endpoint.url}, options=options)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([lines[0], lines[1].replace(b"a", b"b"), *lines[2:]]))
        with pytest.raises(InputError, match=r"run\.journal:2: this line of the journal is damaged"):
            await execute(plan, "q", {"m": endpoint.url}, options=options)

    beside(work)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = open_journal(path, plan="p", question="q")
    with pytest.raises(InputError, match="another process writes this journal"):
        open_journal(path, plan="p", question="q")
    first.close()
    open_journal(path, plan="p", question="q").close()
    with pytest.raises(InputError, match="cannot be opened"):
        open_journal(tmp_path / "no" / "j", plan="p", question="q")


def test_side_effects_are_not_repeated_blindly(plan_of: PlanOf, tmp_path: Path) -> None:
    plan = plan_of("kind: agents\nnodes: {mail: {kind: tool, latency_s: 0, side_effects: true}}\n")
    path = tmp_path / "j"

    def fails(_: object) -> str:
        raise ValueError("no connection")

    with pytest.raises(RunFailedError):
        asyncio.run(execute(plan, "", {}, tools={"mail": fails}, options=RunOptions(journal=path)))
    with pytest.raises(InputError, match="whether it took effect is unknown"):
        asyncio.run(execute(plan, "", {}, tools={"mail": fails}, options=RunOptions(journal=path)))
