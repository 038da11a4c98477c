"""A pretended endpoint beside a test."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from planner.runtime.fake_endpoint import FakeEndpoint, Pace
from planner.runtime.records import CallRecord, RunResult

T = TypeVar("T")
QUICK = Pace(decode_s_per_token=0.001, num_tokens=8)
MODELS = "models: {m: {prefill_tokens_per_s: 1e6, decode_s_per_token: 0.001, overhead_s: 0.0, slots: 64}}"


def beside(
    work: Callable[[FakeEndpoint], Awaitable[T]],
    pace: Pace = QUICK,
    faults: tuple[str, ...] = (),
    reply: Any = None,
) -> T:
    """Run `work` beside an endpoint, within ten seconds."""

    async def inside() -> T:
        endpoint = FakeEndpoint(pace=pace, faults=deque(faults), reply=reply)  # pyright: ignore
        await endpoint.start()
        try:
            async with asyncio.timeout(10):
                return await work(endpoint)
        finally:
            await endpoint.stop()

    return asyncio.run(inside())


def record(result: RunResult, name: str) -> CallRecord:
    return next(c for c in result.calls if c.name == name)


def statuses(result: RunResult) -> dict[str, str]:
    return {c.name: c.status for c in result.calls}
