"""Limits that calls wait for: how many run at once, how many start a minute and with how many tokens, pauses.

One limiter serves all runs of a runtime. Who is waiting is served in the order of priority (smaller first),
then of arrival.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque

RATE_WINDOW_S = 60.0


class Limiter:
    """Slots, and starts and tokens per minute, of one endpoint or tool; None is no limit."""

    def __init__(
        self,
        concurrency: int | None = None,
        calls_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> None:
        self._free = concurrency
        self._rate = calls_per_minute
        self._token_rate = tokens_per_minute
        self._starts: deque[tuple[float, float]] = deque()
        self._tokens = 0.0
        self._paused_until_s = 0.0
        self._queue: list[tuple[float, int, float, asyncio.Future[None]]] = []
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        """How many calls wait."""
        return sum(not f.done() for _, _, _, f in self._queue)

    async def acquire(self, priority: float, tokens: float = 0.0) -> None:
        """Wait for a slot and for room for `tokens`; whoever gets one gives it back with `release`.

        A call of more tokens than a whole minute allows waits until nothing else counts.
        """
        loop = asyncio.get_running_loop()
        if self._token_rate is not None:
            tokens = min(tokens, self._token_rate)
        if not self._queue and self._opens_s(loop.time(), tokens) <= 0:
            self._take(loop.time(), tokens)
            return
        future: asyncio.Future[None] = loop.create_future()
        self._count += 1
        heapq.heappush(self._queue, (priority, self._count, tokens, future))
        self._serve()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.release()
            future.cancel()
            raise

    def release(self) -> None:
        """Give a slot back."""
        if self._free is not None:
            self._free += 1
        self._serve()

    def pause(self, seconds: float) -> None:
        """Start nothing for a while."""
        now = asyncio.get_running_loop().time()
        self._paused_until_s = max(self._paused_until_s, now + seconds)

    def _opens_s(self, now: float, tokens: float) -> float:
        """Return seconds until another call may start; infinite if a slot must be given back first."""
        if self._free is not None and self._free <= 0:
            return float("inf")
        wait = self._paused_until_s - now
        while self._starts and self._starts[0][0] <= now - RATE_WINDOW_S:
            self._tokens -= self._starts.popleft()[1]
        if not self._starts:
            self._tokens = 0.0
        if self._rate is not None and len(self._starts) >= self._rate:
            wait = max(wait, self._starts[0][0] + RATE_WINDOW_S - now)
        if self._token_rate is not None and self._tokens + tokens > self._token_rate and self._starts:
            wait = max(wait, self._starts[0][0] + RATE_WINDOW_S - now)
        return wait

    def _take(self, now: float, tokens: float) -> None:
        if self._free is not None:
            self._free -= 1
        if self._rate is not None or self._token_rate is not None:
            self._starts.append((now, tokens))
            self._tokens += tokens

    def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            tokens, future = self._queue[0][2:]
            if future.done():
                heapq.heappop(self._queue)
                continue
            wait = self._opens_s(loop.time(), tokens)
            if wait > 0:
                self._wake_in(loop, wait)
                return
            heapq.heappop(self._queue)
            self._take(loop.time(), tokens)
            future.set_result(None)

    def _wake_in(self, loop: asyncio.AbstractEventLoop, wait_s: float) -> None:
        if wait_s == float("inf"):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(wait_s + 1e-3, self._serve)
