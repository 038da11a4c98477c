"""One serving engine, step by step: continuous batching, chunked prefill, first come first served.

Time runs in slots. With S pipeline stages S micro-batches are in flight, and each slot is one of them
on the slowest stage. Attention ranks step together. Slots in which nothing starts or ends are skipped
in one stride. Source: the scheduler of vLLM (v1), as its documentation describes it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from math import ceil, inf

from planner.simulate.serving_times import ReplicaModel


@dataclass(slots=True, kw_only=True)
class Request:
    """A request on its way: tokens to compute, tokens cached before, decode steps, and what happened."""

    arrival_s: float
    cached: int
    new: int
    steps: int
    done: int = 0
    first_s: float = inf
    finish_s: float = inf

    @property
    def context(self) -> int:
        """Prompt tokens."""
        return self.cached + self.new


@dataclass(slots=True, kw_only=True)
class Rank:
    """One attention rank: a queue, and per micro-batch a heap of (last cycle, number, request)."""

    num_lanes: int
    queue: deque[Request] = field(default_factory=deque[Request])
    lanes: list[list[tuple[int, int, Request]]] = field(default_factory=list[list[tuple[int, int, Request]]])
    running: int = 0
    cached_tokens: float = 0.0

    def __post_init__(self) -> None:
        """Open the lanes."""
        self.lanes = [[] for _ in range(self.num_lanes)]

    @property
    def load(self) -> int:
        """What a router looks at: requests that wait, weighted above those that run."""
        return self.running + 4 * len(self.queue)


@dataclass(slots=True, kw_only=True)
class Engine:
    """One replica. `prefills` and `decodes` say which halves of a request it does."""

    model: ReplicaModel
    prefills: bool = True
    decodes: bool = True
    now_s: float = 0.0
    busy_s: float = 0.0
    num_slots: int = 0
    overflows: int = 0
    ranks: list[Rank] = field(default_factory=list[Rank])
    _cycles: list[int] = field(default_factory=list[int])
    _lane: int = 0
    _serial: int = 0

    def __post_init__(self) -> None:
        """Set up ranks and lanes."""
        stages = self.model.times.num_stages
        self.ranks = [Rank(num_lanes=stages) for _ in range(self.model.num_ranks)]
        self._cycles = [0] * stages

    def advance(self, until_s: float) -> None:
        """Run until `until_s` at least, or until there is nothing to do."""
        while self.now_s < until_s:
            if any(self._can_start(rank) for rank in self.ranks):
                self._slot()
            elif any(rank.running for rank in self.ranks):
                self._stride(until_s)
            elif until_s == inf:
                return
            else:
                self.now_s = until_s

    def _can_start(self, rank: Rank) -> bool:
        if not rank.queue:
            return False
        head = rank.queue[0]
        if head.done:
            return True
        room = rank.cached_tokens + head.context <= self.model.cache_tokens or not rank.running
        return room and rank.running < self.model.max_sequences

    def _slot(self) -> None:
        """Run one micro-batch on every rank, with as much of the waiting prompts as the budget lets in."""
        lane = self._lane
        slot, finished = 0.0, list[tuple[Rank, Request]]()
        for rank in self.ranks:
            decode = len(rank.lanes[lane])
            pieces, ended = self._take(rank, self.model.token_budget - decode)
            finished += [(rank, request) for request in ended]
            tokens = sum(end - start for start, end in pieces)
            slot = max(slot, self.model.times.slot_s(decode, tokens, pieces))
        self.now_s += slot
        self.busy_s += slot
        self.num_slots += 1
        self._cycles[lane] += 1
        for rank in self.ranks:
            rank.cached_tokens += len(rank.lanes[lane])
            self._retire(rank, lane)
        for rank, request in finished:
            self._begin(rank, request, slot)
        self._lane = (lane + 1) % len(self._cycles)

    def _take(self, rank: Rank, room: int) -> tuple[list[tuple[int, int]], list[Request]]:
        """Take prompt tokens off the queue; return the pieces and the requests whose prompt is through."""
        pieces: list[tuple[int, int]] = []
        ended: list[Request] = []
        while room > 0 and self._can_start(rank):
            request = rank.queue[0]
            if not request.done:
                rank.running += 1
                rank.cached_tokens += request.context
            if not self.prefills:
                request.done = request.new
                ended.append(rank.queue.popleft())
                continue
            start = request.cached + request.done
            count = min(room, request.new - request.done)
            pieces.append((start, start + count))
            request.done += count
            room -= count
            if request.done == request.new:
                ended.append(rank.queue.popleft())
        return pieces, ended

    def _begin(self, rank: Rank, request: Request, slot_s: float) -> None:
        """Note the first token of a request, and let it decode where it shall."""
        if self.prefills:
            times = self.model.times
            request.first_s = self.now_s + times.fill_s(slot_s) + times.per_request_s
        if request.steps == 0 or not self.decodes:
            request.finish_s = request.first_s
            rank.running -= 1
            rank.cached_tokens -= request.context
            return
        lane = min(range(len(rank.lanes)), key=lambda k: len(rank.lanes[k]))
        self._serial += 1
        heappush(rank.lanes[lane], (self._cycles[lane] + request.steps, self._serial, request))
        if rank.cached_tokens > self.model.cache_tokens:
            self.overflows += 1

    def _retire(self, rank: Rank, lane: int) -> None:
        batch, cycle = rank.lanes[lane], self._cycles[lane]
        while batch and batch[0][0] <= cycle:
            _, _, request = heappop(batch)
            request.finish_s = self.now_s
            rank.running -= 1
            rank.cached_tokens -= request.context + request.steps

    def _stride(self, until_s: float) -> None:
        """Run whole cycles of all micro-batches up to the next end of a request or to `until_s`."""
        table, lanes = self.model.times.decode_only, range(len(self._cycles))
        cycle_s = sum(table[max(len(rank.lanes[k]) for rank in self.ranks)] for k in lanes)
        left = min(
            rank.lanes[k][0][0] - self._cycles[k] for rank in self.ranks for k in lanes if rank.lanes[k]
        )
        if until_s < inf:
            left = min(left, ceil((until_s - self.now_s) / cycle_s))
        count = max(1, left)
        self.now_s += count * cycle_s
        self.busy_s += count * cycle_s
        self.num_slots += count * len(self._cycles)
        for k in lanes:
            self._cycles[k] += count
        for rank in self.ranks:
            rank.cached_tokens += count * sum(len(lane) for lane in rank.lanes)
            for k in lanes:
                self._retire(rank, k)
