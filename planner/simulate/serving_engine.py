"""One serving engine, step by step: continuous batching, chunked prefill, preemption by recomputing.

Time runs in slots. With S pipeline stages S micro-batches are in flight, each has a step in turn, and what
a step has done is known when it has left the last stage. Attention ranks step together. Slots in which
nothing starts or ends are skipped in one stride. Where the caches outgrow the memory, the request that
started last is thrown back and computes again. Source: the scheduler of vLLM (v1), as its documentation
describes it; how steps pass a pipeline: `cost_models.serving.convoy`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from math import ceil, inf

from cost_models.serving.convoy import Convoy, cycle_s
from planner.simulate.policies import Queue
from planner.simulate.policies.fcfs import POLICY as FIRST_COME
from planner.simulate.serving_cache import PrefixCache
from planner.simulate.serving_request import Request
from planner.simulate.serving_times import Batch, ReplicaModel

__all__ = ["Engine", "Rank", "Request"]

_Entry = tuple[int, int, Request]


@dataclass(slots=True, kw_only=True)
class Rank:
    """One attention rank: who waits, whose prompt is computed, and per micro-batch a heap of who decodes.

    An entry of a heap is (last cycle, number, request). `cached_tokens` are those that requests hold
    for themselves, `prefixes` those that they may share, `promised_tokens` what those that run were let in
    for, and `context_tokens` what those that decode look back on.
    """

    num_lanes: int
    queue: Queue = field(default_factory=FIRST_COME)
    prefixes: PrefixCache | None = None
    current: Request | None = None
    lanes: list[list[_Entry]] = field(default_factory=list[list[_Entry]])
    running: int = 0
    cached_tokens: float = 0.0
    promised_tokens: float = 0.0
    context_tokens: int = 0
    decoding: int = 0
    waiting_tokens: int = 0

    def __post_init__(self) -> None:
        """Open the lanes."""
        self.lanes = [[] for _ in range(self.num_lanes)]

    @property
    def load(self) -> int:
        """What a router looks at: requests that wait, weighted above those that run."""
        return self.running + 4 * len(self.queue)

    @property
    def held_tokens(self) -> float:
        """Tokens that cannot be given up: private ones and pinned prefixes."""
        return self.cached_tokens + (self.prefixes.pinned_tokens if self.prefixes else 0)

    def more_context(self, than_tokens: float) -> float:
        """Return how much longer than so many tokens the decoding requests are in the mean."""
        return self.context_tokens / self.decoding - than_tokens if self.decoding else 0.0

    def admit(self, request: Request) -> None:
        """Let a request wait."""
        self.queue.append(request)
        self.waiting_tokens += request.new


@dataclass(slots=True, kw_only=True)
class Tally:
    """What an engine did: seconds of steps with and without prompts, tokens held over time, interruptions."""

    prompt_s: float = 0.0
    decode_s: float = 0.0
    num_slots: int = 0
    held_token_s: float = 0.0
    held_peak: float = 0.0
    interruptions: int = 0

    @property
    def busy_s(self) -> float:
        """Seconds in which it stepped."""
        return self.prompt_s + self.decode_s


@dataclass(slots=True, kw_only=True)
class _Step:
    """A step in flight: when it leaves, whose it is, the tokens of each rank, and whose prompts end in it."""

    leaves_s: float
    lane: int
    cycle: int
    tokens: list[int]
    prompts: list[tuple[Rank, Request]]


@dataclass(slots=True, kw_only=True)
class Engine:
    """One replica. `prefills` and `decodes` say which halves of a request it does.

    `slowdown` stretches every step (a straggler). While it is down, from `fail` on, it takes nothing.
    `ended` collects the requests that it is done with; whoever looks at it empties it.
    """

    model: ReplicaModel
    prefills: bool = True
    decodes: bool = True
    slowdown: float = 1.0
    queue: Callable[[], Queue] = FIRST_COME
    now_s: float = 0.0
    down_until_s: float = 0.0
    tally: Tally = field(default_factory=Tally)
    ranks: list[Rank] = field(default_factory=list[Rank])
    ended: list[Request] = field(default_factory=list[Request])
    _cycles: list[int] = field(default_factory=list[int])
    _convoy: Convoy = field(default_factory=lambda: Convoy(num_stages=1))
    _in_flight: deque[_Step] = field(default_factory=deque[_Step])
    _unsettled: int = 0
    _is_plain: bool = False
    _wait_steps: int = 0
    _waited: int = 0
    _lane: int = 0
    _serial: int = 0

    def __post_init__(self) -> None:
        """Set up ranks and lanes."""
        stages = self.model.times.num_stages
        self.ranks = [
            Rank(num_lanes=stages, queue=self.queue(), prefixes=self.model.prefix_cache())
            for _ in range(self.model.num_ranks)
        ]
        self._cycles = [0] * stages
        self._convoy = Convoy(num_stages=stages)
        if len(self.ranks) > 1 and self.prefills and self.decodes:
            self._wait_steps = self.model.prompt_wait_steps
        self._is_plain = stages == len(self.ranks) == 1 and self.model.times.is_plain

    def is_up(self, at_s: float) -> bool:
        """Return whether it takes requests."""
        return at_s >= self.down_until_s

    def advance(self, until_s: float) -> None:
        """Run until `until_s` at least, or until there is nothing to do."""
        while self.now_s < until_s:
            if self._starts():
                self._slot()
            elif any(rank.running for rank in self.ranks):
                self._decode(until_s)
            elif until_s == inf:
                return
            else:
                self.now_s = until_s

    def fail(self, at_s: float, until_s: float) -> list[Request]:
        """Go down at `at_s` until `until_s`; return every request that was here, to be sent elsewhere.

        Steps under way are still finished.
        """
        self.advance(at_s)
        self._arrive(inf)
        lost: list[Request] = []
        for rank in self.ranks:
            lost += rank.queue.clear()
            rank.waiting_tokens = 0
            if rank.current is not None:
                rank.current.interrupt(0)
                lost.append(rank.current)
                rank.current = None
            for lane, batch in enumerate(rank.lanes):
                for end, _, request in batch:
                    request.interrupt(request.steps - (end - self._cycles[lane]))
                    lost.append(request)
                batch.clear()
            rank.running, rank.cached_tokens, rank.promised_tokens = 0, 0.0, 0.0
            rank.context_tokens, rank.decoding = 0, 0
            if rank.prefixes:
                rank.prefixes.drop()
        self.now_s = self.down_until_s = max(until_s, self.now_s)
        return lost

    def _starts(self) -> bool:
        """Return whether prompts go into the next step, where ranks may wait for those that have none."""
        if not self._wait_steps:
            return any(self._can_start(rank) for rank in self.ranks)
        able = [self._can_start(rank) for rank in self.ranks]
        if all(able) or not any(able):
            return any(able)
        waited_enough = self._waited + 1 >= self._wait_steps
        return waited_enough or not all(rank.decoding for rank in self.ranks)

    def _can_start(self, rank: Rank) -> bool:
        if rank.current is not None:
            return True
        if not len(rank.queue):
            return False
        if not rank.running:
            return True
        needed = max(rank.held_tokens, rank.promised_tokens) + self._promise(rank.queue.head())
        return needed <= self.model.cache_tokens and rank.running < self.model.max_sequences

    def _promise(self, request: Request) -> float:
        """Return the tokens for which there must be room before a request starts."""
        return request.context + self.model.reserved_share * request.steps * self.decodes

    def _start(self, rank: Rank) -> Request:
        """Take the next request: find its prefix, and hold its tokens."""
        request = rank.queue.popleft()
        rank.waiting_tokens -= request.new
        rank.running += 1
        request.start_s = min(request.start_s, self.now_s)
        request.private_tokens = request.context
        if rank.prefixes is not None and request.blocks:
            self._match(rank, rank.prefixes, request)
        rank.cached_tokens += request.private_tokens
        request.promised_tokens = self._promise(request) - request.context + request.private_tokens
        rank.promised_tokens += request.promised_tokens
        rank.current = request
        return request

    def _match(self, rank: Rank, prefixes: PrefixCache, request: Request) -> None:
        total = request.context
        if self.prefills:
            found, fetch_s = prefixes.match(request.blocks)
            self.now_s += fetch_s
            hit = min(found * prefixes.block_tokens, total - 1)
            request.cached, request.new = hit, total - hit
        prefixes.pin(request.blocks)
        request.private_tokens = total - len(request.blocks) * prefixes.block_tokens
        prefixes.shrink(self.model.cache_tokens - rank.cached_tokens - request.private_tokens)

    def _slot(self) -> None:
        """Let the next micro-batch step on every rank, with as much of the prompts as the budget lets in."""
        lane, begin = self._lane, self.now_s
        batches: list[Batch] = []
        prompts: list[tuple[Rank, Request]] = []
        starts = not self._wait_steps or self._starts()
        self._waited = 0 if starts else self._waited + 1
        for rank in self.ranks:
            room = self.model.token_budget - len(rank.lanes[lane]) if starts else 0
            pieces, ended = self._take(rank, room)
            if self.prefills:
                prompts += [(rank, request) for request in ended]
            else:
                for request in ended:
                    self._begin(rank, request, self.now_s)
            tokens = sum(end - start for start, end in pieces)
            more = rank.more_context(self.model.times.context_tokens)
            batches.append(Batch(len(rank.lanes[lane]), tokens, pieces, more))
        slot_s, through_s = self.model.times.step_s(batches)
        held_s = max(0.0, len(prompts) * self.model.admission_s - slot_s)
        slot_s, through_s = slot_s + held_s, through_s + held_s
        leaves_s = self._convoy.run(slot_s * self.slowdown, through_s * self.slowdown, self.now_s)
        self._cycles[lane] += 1
        decoding = [batch.decode for batch in batches]
        self._in_flight.append(
            _Step(leaves_s=leaves_s, lane=lane, cycle=self._cycles[lane], tokens=decoding, prompts=prompts)
        )
        with_prompts = any(batch.prompt for batch in batches)
        self._unsettled = 2 * len(self._cycles) if with_prompts else max(0, self._unsettled - 1)
        self._lane = (lane + 1) % len(self._cycles)
        self.now_s = max(self.now_s, self._convoy.enters_s())
        self._pass(self.now_s - begin, 1, with_prompts=with_prompts)
        self._arrive(self.now_s)

    def _arrive(self, by_s: float) -> None:
        """Take in what the steps have done that have left the pipeline by then."""
        while self._in_flight and self._in_flight[0].leaves_s <= by_s:
            step = self._in_flight.popleft()
            for rank, tokens in zip(self.ranks, step.tokens, strict=True):
                self._grow(rank, tokens)
                self._retire(rank, step.lane, step.cycle, step.leaves_s)
            for rank, request in step.prompts:
                self._begin(rank, request, step.leaves_s)
            for rank in self.ranks:
                self._make_room(rank)

    @staticmethod
    def _grow(rank: Rank, tokens: int) -> None:
        """Note that the requests of a rank have produced so many tokens."""
        rank.cached_tokens += tokens
        rank.context_tokens += tokens

    def _pass(self, time_s: float, slots: int, *, with_prompts: bool) -> None:
        if with_prompts:
            self.tally.prompt_s += time_s
        else:
            self.tally.decode_s += time_s
        self.tally.num_slots += slots
        held = sum(rank.held_tokens for rank in self.ranks)
        self.tally.held_token_s += held * time_s
        self.tally.held_peak = max(self.tally.held_peak, held)

    def _take(self, rank: Rank, room: int) -> tuple[list[tuple[int, int]], list[Request]]:
        """Take prompt tokens off the queue; return the pieces and the requests whose prompt is through."""
        pieces: list[tuple[int, int]] = []
        ended: list[Request] = []
        while room > 0 and self._can_start(rank):
            request = rank.current or self._start(rank)
            if not self.prefills:
                request.done = request.new
            else:
                start = request.cached + request.done
                count = min(room, request.new - request.done)
                pieces.append((start, start + count))
                request.done += count
                room -= count
                rank.queue.served(request, count)
            if request.done == request.new:
                ended.append(request)
                rank.current = None
        return pieces, ended

    def _begin(self, rank: Rank, request: Request, at_s: float) -> None:
        """Note the first token of a request, and let it decode where it shall.

        Who decodes only streams the first token when it takes the request in: the others wait for a place.
        """
        told_s = at_s + self.model.times.per_request_s
        if self.prefills:
            request.first_s = min(request.first_s, told_s)
        elif not request.interruptions:
            request.first_s = max(request.first_s, told_s)
        if request.steps == 0 or not self.decodes:
            request.finish_s = max(request.first_s, at_s) if request.produced else request.first_s
            self._leave(rank, request, request.private_tokens)
            self.ended.append(request)
            return
        lane = min(range(len(rank.lanes)), key=lambda k: len(rank.lanes[k]))
        self._serial += 1
        heappush(rank.lanes[lane], (self._cycles[lane] + request.steps, self._serial, request))
        rank.decoding += 1
        rank.context_tokens += request.context

    def _stop_decoding(self, rank: Rank, request: Request, produced: int) -> None:
        rank.decoding -= 1
        rank.context_tokens -= request.context + produced
        self._leave(rank, request, request.private_tokens + produced)

    def _leave(self, rank: Rank, request: Request, tokens: int) -> None:
        rank.running -= 1
        rank.cached_tokens -= tokens
        rank.promised_tokens -= request.promised_tokens
        if rank.prefixes is not None and request.blocks:
            rank.prefixes.unpin(request.blocks)

    def _retire(self, rank: Rank, lane: int, cycle: int, at_s: float) -> None:
        batch = rank.lanes[lane]
        while batch and batch[0][0] <= cycle:
            _, _, request = heappop(batch)
            request.finish_s = at_s
            rank.queue.served(request, request.steps)
            self._stop_decoding(rank, request, request.steps)
            self.ended.append(request)

    def _make_room(self, rank: Rank) -> None:
        """Throw back the requests that started last until the caches fit; the only one always stays."""
        while rank.held_tokens > self.model.cache_tokens:
            entries = [(e[1], k, e) for k, lane in enumerate(rank.lanes) for e in lane]
            if len(entries) < 2:
                return
            _, lane, entry = max(entries)
            rank.lanes[lane].remove(entry)
            heapify(rank.lanes[lane])
            request = entry[2]
            produced = request.steps - (entry[0] - self._cycles[lane])
            rank.queue.served(request, produced)
            self._stop_decoding(rank, request, produced)
            request.interrupt(produced)
            rank.admit(request)
            self.tally.interruptions += 1

    def _cycle_s(self, growth: float = 0.0) -> float:
        """Return seconds of one step of every micro-batch, once each sequence is `growth` tokens longer."""
        times = self.model.times
        if self._is_plain:
            rank = self.ranks[0]
            more_context = rank.more_context(times.context_tokens) + growth
            return times.decode_s(len(rank.lanes[0]), more_context) * self.slowdown
        more = [rank.more_context(times.context_tokens) + growth for rank in self.ranks]
        steps = [
            times.step_s(
                [Batch(len(rank.lanes[k]), 0, [], m) for rank, m in zip(self.ranks, more, strict=True)]
            )
            for k in range(len(self._cycles))
        ]
        return cycle_s(steps) * self.slowdown

    def _cycles_left(self) -> int:
        """Return how many cycles nothing but decoding happens: until one ends, or the caches are full.

        In a pipeline the last of them, whose ends come one by one, is not among them, and there are none
        while long steps hold up others.
        """
        last = len(self._cycles) > 1
        if last and self._unsettled:
            return 0
        left = min(
            rank.lanes[k][0][0] - self._cycles[k]
            for rank in self.ranks
            for k in range(len(self._cycles))
            if rank.lanes[k]
        )
        for rank in self.ranks:
            if rank.decoding > 1:
                left = min(left, int((self.model.cache_tokens - rank.held_tokens) // rank.decoding) + 1)
        if self._wait_steps and any(len(rank.queue) for rank in self.ranks):
            left = min(left, (self._wait_steps - 1 - self._waited) // len(self._cycles))
        return max(0, left - 1) if last else max(1, left)

    def next_end_s(self) -> float:
        """Return a time before which nothing ends here unless something arrives; inf if nothing runs."""
        if self._starts():
            return self.now_s
        if not any(rank.running for rank in self.ranks):
            return inf
        count = self._cycles_left()
        return self.now_s + count * self._cycle_s() if count else self.now_s

    def step(self) -> None:
        """Run to the next moment at which something may end."""
        if self._starts():
            self._slot()
        elif any(rank.running for rank in self.ranks):
            self._decode(inf)

    def _decode(self, until_s: float) -> None:
        """Run whole cycles of all micro-batches up to the next end of a request or to `until_s`."""
        count = self._cycles_left()
        if count and until_s < inf:
            cycles = (until_s - self.now_s) / self._cycle_s()
            count = min(count, int(cycles) if len(self._cycles) > 1 else max(1, ceil(cycles)))
        if not count:
            self._slot()
            return
        if self._wait_steps:
            self._waited = (self._waited + count * len(self._cycles)) % self._wait_steps
        time_s = count * self._cycle_s(0.5 * (count - 1))
        self._pass(time_s, count * len(self._cycles), with_prompts=False)
        self._convoy.delay(time_s)
        self.now_s += time_s
        self._cycles = [cycle + count for cycle in self._cycles]
        for step in self._in_flight:
            step.leaves_s += time_s
            step.cycle += count
        for rank in self.ranks:
            self._grow(rank, count * rank.decoding)
            if not self._in_flight:
                self._retire(rank, 0, self._cycles[0], self.now_s)
            self._make_room(rank)
