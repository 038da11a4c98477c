"""Thousands of graphs at once on Ray (extra ``newel[ray]``): workers that share nothing but the servers.

Every worker is a Ray actor with an event loop, connections and limits of its own; a run lives in one worker
from start to end, so no call passes through the driver. The driver hands out batches of inputs and takes in
batches of results. The limits of an endpoint are split over the workers, so that together they keep to them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from planner.errors import InputError
from planner.plan.schema import Plan
from planner.plan.serialize import plan_from_bytes, plan_text, read_plan
from planner.runtime.bindings import Bindings
from planner.runtime.compiled import compile_plan
from planner.runtime.engine import RunOptions, Runtime, bind
from planner.runtime.failures import RunFailedError
from planner.runtime.records import RunResult

_BATCHES_AHEAD = 2
_MAX_WORKERS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How to spread runs: workers, runs at once in each, a folder for journals (one file per run)."""

    num_workers: int = 2
    runs_per_worker: int = 100
    journals: Path | None = None
    actor: Mapping[str, object] = field(default_factory=lambda: {"num_cpus": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRun:
    """One run of many: the number of its input, its worker, its answers; `error` is empty if it has them."""

    index: int
    worker: int
    error: str
    answers: dict[str, str]
    ttft_s: float | None
    latency_s: float
    usd: float
    num_calls: int

    @property
    def text(self) -> str:
        """What the final calls wrote."""
        return "\n\n".join(self.answers.values())


def run_many(
    plan: Plan | str | Path,
    questions: Iterable[str],
    endpoints: Mapping[str, object] | Bindings,
    *,
    tools: Mapping[str, object] | None = None,
    predicates: Mapping[str, Callable[[str], bool]] | None = None,
    options: PoolOptions | None = None,
) -> Iterator[PooledRun]:
    """Yield the runs of a plan on many inputs as they end; inputs are read as workers get free.

    Ray is started on this machine unless the process is connected to a cluster already.

    Raises
    ------
    InputError
        If Ray is not installed, the plan cannot run, or something has nothing behind it.
    """
    how = options or PoolOptions()
    if not 1 <= how.num_workers <= _MAX_WORKERS or how.runs_per_worker < 1:
        raise InputError("workers and runs per worker are at least 1", value=how.num_workers)
    ray = _ray()
    loaded = plan if isinstance(plan, Plan) else read_plan(Path(plan))
    bindings = shared(bind(endpoints, tools, predicates), loaded, how.num_workers)
    Runtime(loaded, bindings)  # what does not fit is told here, not in a worker
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    actor = ray.remote(**how.actor)(Worker)
    made = [actor.remote(i, plan_text(loaded), bindings, how) for i in range(how.num_workers)]
    try:
        yield from _spread(ray, made, questions, how)
    finally:
        for worker in made:
            ray.kill(worker)


def _spread(ray: Any, workers: list[Any], questions: Iterable[str], how: PoolOptions) -> Iterator[PooledRun]:
    """Keep every worker busy with batches until there are no more inputs."""
    numbered = enumerate(questions)
    running: dict[Any, Any] = {}
    for worker in workers * _BATCHES_AHEAD:
        _hand_out(worker, numbered, how, running)
    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            worker = running.pop(reference)
            _hand_out(worker, numbered, how, running)
            yield from ray.get(reference)


def _hand_out(
    worker: Any, numbered: Iterator[tuple[int, str]], how: PoolOptions, running: dict[Any, Any]
) -> None:
    batch = list(islice(numbered, max(how.runs_per_worker // _BATCHES_AHEAD, 1)))
    if batch:
        running[worker.run.remote(batch)] = worker


class Worker:
    """Runs batches in one process; the methods are called by Ray."""

    def __init__(self, number: int, plan: str, bindings: Bindings, how: PoolOptions) -> None:
        self._number = number
        self._plan = compile_plan(plan_from_bytes(plan.encode()))
        self._bindings = bindings
        self._how = how
        self._runtime: Runtime | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(how.runs_per_worker)

    async def run(self, batch: list[tuple[int, str]]) -> list[PooledRun]:
        """Return the runs of a batch of numbered inputs, in their order."""
        async with self._opening:
            if self._runtime is None:
                self._runtime = await Runtime(self._plan, self._bindings).__aenter__()
        return list(await asyncio.gather(*(self._one(self._runtime, *item) for item in batch)))

    async def _one(self, runtime: Runtime, index: int, question: str) -> PooledRun:
        folder = self._how.journals
        journal = None if folder is None else folder / f"{index}.journal"
        async with self._slots:
            try:
                result = await runtime.run(question, RunOptions(run=str(index), journal=journal))
            except RunFailedError as error:
                return self._pooled(index, error.result)
        return self._pooled(index, result)

    def _pooled(self, index: int, result: RunResult) -> PooledRun:
        return PooledRun(
            index=index,
            worker=self._number,
            error=result.error,
            answers=result.answers,
            ttft_s=result.ttft_s,
            latency_s=result.latency_s,
            usd=result.usd,
            num_calls=sum(c.num_attempts for c in result.calls),
        )


def shared(bindings: Bindings, plan: Plan, num_workers: int) -> Bindings:
    """Return bindings whose limits are one worker's part, at least one call each.

    Raises
    ------
    InputError
        If a model of the plan allows fewer calls at once than there are workers.
    """
    models = compile_plan(plan).graph.models
    found = dict(bindings.endpoints)
    for model in models:
        endpoint = bindings.endpoint(model.name)
        if endpoint is None:
            continue
        slots = endpoint.concurrency or model.slots * model.replicas
        rate = endpoint.calls_per_minute or model.calls_per_minute
        tokens = endpoint.tokens_per_minute or model.tokens_per_minute
        if min(slots, rate or slots) < num_workers:
            raise InputError(
                "fewer calls at once (or a minute) than workers: they could not share that",
                key=f"endpoints.{model.name}",
                value=min(slots, rate or slots),
                allowed=f"at least {num_workers}",
            )
        found[model.name] = replace(
            endpoint,
            concurrency=slots // num_workers,
            calls_per_minute=None if rate is None else rate // num_workers,
            tokens_per_minute=None if tokens is None else max(tokens // num_workers, 1),
        )
    return replace(bindings, endpoints=found)


def _ray() -> Any:
    try:
        return import_module("ray")
    except ImportError:
        raise InputError("Ray is not installed", hint="Install it: pip install 'newel[ray]'") from None
