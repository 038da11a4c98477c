"""What a fixed number of clients makes an engine do, step by step, before any step has a time.

In a closed loop every client sends its next request when the last one ends. All start together, so
their prompts come in bursts that spread only slowly: waiting for a first token is decided by these
bursts, not by the mean load. Which step carries which tokens follows from lengths and limits alone, so a
pattern is made once and priced for any model on any device with a few array operations.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from heapq import heappop, heappush
from math import ceil

import numpy as np
from numpy.typing import NDArray

from cost_models.cost import FloatArray
from cost_models.serving.convoy import Convoy
from cost_models.serving.iteration import StepTime, step_time
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables

IntArray = NDArray[np.int64]

WAVES = 10
"""Requests per client of a benchmark: the usual ratio of prompts to concurrency."""
_MAX_REQUESTS = 4000
_MIN_WAVES = 3
_SEED = 20260821


@dataclass(frozen=True, slots=True, kw_only=True)
class Discipline:
    """How an engine fills its steps.

    Parameters
    ----------
    token_budget
        Tokens per step of one rank.
    reserved_share
        Share of a request's output for which cache must be free before it may start.
    wait_steps
        Steps for which prompts wait until every attention rank has one, so that ranks compute them together.
        The count goes on whether or not a prompt waits, and starts again when prompts go; nobody waits while
        a rank has nothing to decode. 0: prompts go at once.
    """

    token_budget: int
    reserved_share: float = 1.0
    wait_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Clients of one replica, the attention ranks they spread over, and what a rank may hold.

    With several pipeline stages a step is that of one micro-batch: a rank's sequences are spread over as many
    micro-batches as there are stages, and each of them has a step in turn.
    """

    num_clients: int
    num_ranks: int
    max_sequences: float
    cache_tokens: float
    num_stages: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """Segments of equal steps, the prompt chunks in them, and between which segments each request ran.

    A segment of no steps says that nothing was left to do.

    `arrived`, `first` and `finished` index the ends of segments; 0 is the start, before the first one.
    """

    num_steps: FloatArray
    decode: FloatArray
    prompt_tokens: FloatArray
    mean_prompt_tokens: FloatArray
    chunk_segment: IntArray
    chunk_sample: IntArray
    chunk_share: FloatArray
    sample: IntArray
    arrived: IntArray
    first: IntArray
    finished: IntArray


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopTimes:
    """What every request of a pattern saw, seconds, and the mean requests in decode of one rank."""

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray
    sequences: float
    mixed_share: float


def loop_times(pattern: Pattern, tables: TimeTables, requests: Requests) -> LoopTimes:
    """Return the times of a pattern's requests. Ranks run in lockstep: dense work waits for the fullest."""
    ends = _ends_s(pattern, tables, admission_s=tables.admission_s)
    steps = requests.steps[pattern.sample]
    ttft = ends[pattern.first] - ends[pattern.arrived] + tables.per_request_s
    decoding = np.maximum(ends[pattern.finished] - ends[pattern.first], 0.0)
    total = float(ends[-1])
    return LoopTimes(
        ttft_s=ttft,
        tpot_s=decoding / np.maximum(steps, 1.0),
        e2e_s=ttft + decoding,
        sequences=float((pattern.decode * np.diff(ends)).sum()) * tables.num_stages / total,
        mixed_share=float(pattern.num_steps[pattern.prompt_tokens > 0].sum() / pattern.num_steps.sum()),
    )


def run_s(pattern: Pattern, tables: TimeTables) -> float:
    """Return how long a pattern lasts from the first step to the last token, seconds."""
    return float(_ends_s(pattern, tables)[-1]) + tables.per_request_s


def _ends_s(pattern: Pattern, tables: TimeTables, admission_s: float = 0.0) -> FloatArray:
    """Return when each segment has left the last stage, the start before them.

    A front end works beside the engine and takes requests in one by one: the steps in which prompts end
    cannot follow each other faster than that.
    """
    mean_tokens = pattern.decode + pattern.mean_prompt_tokens
    attention = _attention_s(pattern, tables)
    step = step_time(tables, pattern.decode, pattern.prompt_tokens, attention, mean_tokens=mean_tokens)
    if admission_s:
        taken_in = np.bincount(pattern.first, minlength=pattern.num_steps.size + 1)[1:]
        slowest = np.maximum(step.slot_s, taken_in * admission_s)
        step = StepTime(slot_s=slowest, through_s=step.through_s + (slowest - step.slot_s))
    if tables.num_stages == 1:
        return np.concatenate(([0.0], np.cumsum(step.slot_s * pattern.num_steps)))
    return convoy_ends_s(step, pattern.num_steps, tables.num_stages)


def convoy_ends_s(step: StepTime, num_steps: FloatArray, num_stages: int) -> FloatArray:
    """Return when each segment of equal steps has left a pipeline, 0 before them (see `convoy`).

    Before a segment of no steps the pipeline runs empty.
    """
    convoy = Convoy(num_stages=num_stages)
    ends = [0.0]
    for slot_s, through_s, count in zip(
        step.slot_s.tolist(), step.through_s.tolist(), num_steps.tolist(), strict=True
    ):
        if not count:
            convoy.drain()
        single = min(int(count), 2 * num_stages)
        for _ in range(single):
            convoy.run(slot_s, through_s)
        if count > single:
            # all that is in flight is alike by now, and one leaves per step
            convoy.delay((count - single) * slot_s)
        ends.append(convoy.last_s)
    return np.array(ends)


def _attention_s(pattern: Pattern, tables: TimeTables) -> FloatArray:
    """Return the attention of the prompts in each segment on the fullest rank, [rows, segments]."""
    per_chunk = tables.prompt_attention_s[:, pattern.chunk_sample] * pattern.chunk_share
    sums = [
        np.bincount(pattern.chunk_segment, weights=values, minlength=pattern.num_steps.size)
        for values in per_chunk
    ]
    everyone = np.maximum(pattern.mean_prompt_tokens * tables.num_attention_ranks, 1.0)
    return np.array(sums) * pattern.prompt_tokens / everyone


def num_waves(num_clients: int) -> int:
    """Return how many requests of each client are followed: as a benchmark has, fewer of many clients."""
    return max(_MIN_WAVES, min(WAVES, _MAX_REQUESTS // max(num_clients, 1)))


def wave_weights(num_requests: int, num_clients: int) -> FloatArray:
    """Return the share of a benchmark that each request stands for.

    Where fewer are followed than a benchmark has, the first of every client, all of which come at once, is
    one in ten all the same.
    """
    first = min(num_clients, num_requests)
    if first in (0, num_requests):
        return np.full(num_requests, 1.0 / max(num_requests, 1))
    weights = np.full(num_requests, (1.0 - 1.0 / WAVES) / (num_requests - first))
    weights[:first] = 1.0 / WAVES / first
    return weights


def weighted_percentiles(values: FloatArray, weights: FloatArray, percentiles: FloatArray) -> FloatArray:
    """Return percentiles of values that stand for shares of all; the lowest that reaches each."""
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order])
    at = np.searchsorted(share, percentiles / 100.0 - 1e-12)
    return values[order][np.minimum(at, values.size - 1)]


def closed_loop_pattern(requests: Requests, loop: Loop, how: Discipline) -> Pattern:
    """Return the pattern of a closed loop (see `Pattern`); equal questions are answered once."""
    waves = num_waves(loop.num_clients)
    at_once = admitted_per_step(loop.num_clients, requests.mean_steps * loop.num_stages)
    return _pattern(_lengths(requests), loop, how, waves, at_once)


def offline_pattern(requests: Requests, loop: Loop, how: Discipline) -> Pattern:
    """Return the pattern of `num_clients` requests that are all queued at the start and come only once."""
    return _pattern(_lengths(requests), loop, how, 1, loop.num_clients)


def _lengths(requests: Requests) -> tuple[tuple[float, float, float, float], ...]:
    return tuple(
        zip(
            requests.input_tokens.tolist(),
            requests.new_tokens.tolist(),
            requests.steps.tolist(),
            requests.weights.tolist(),
            strict=True,
        )
    )


@lru_cache(maxsize=2048)
def _pattern(
    lengths: tuple[tuple[float, float, float, float], ...],
    loop: Loop,
    how: Discipline,
    waves: int,
    at_once: int,
) -> Pattern:
    samples = np.array(lengths)
    weights = samples[:, 3] / samples[:, 3].sum()
    rng = np.random.default_rng(_SEED)
    drawn = rng.choice(weights.size, size=waves * loop.num_clients, p=weights)
    run = _Run(
        loop=loop,
        how=how,
        prompt=[max(1, round(x)) for x in samples[drawn, 1]],
        held=[float(x) for x in samples[drawn, 0] + how.reserved_share * samples[drawn, 2]],
        steps=[int(x) * loop.num_stages for x in np.ceil(samples[drawn, 2])],
        admitted_per_step=at_once,
    )
    run.run()
    return run.pattern(drawn)


def admitted_per_step(num_clients: int, mean_steps: float) -> int:
    """Return how many requests reach a scheduler between two steps: twice the mean, and at least two.

    Requests that end together are not sent again together: front ends take them one by one. Without this,
    equal lengths would keep all clients in step for ever.
    """
    return max(2, ceil(2.0 * num_clients / max(mean_steps, 1.0)))


@dataclass(slots=True, kw_only=True)
class _Run:
    loop: Loop
    how: Discipline
    prompt: list[int]
    held: list[float]
    steps: list[int]
    rank_of: list[int] = field(default_factory=list[int])
    arrived: list[int] = field(default_factory=list[int])
    first: list[int] = field(default_factory=list[int])
    finished: list[int] = field(default_factory=list[int])
    segments: list[tuple[int, float, int, int]] = field(default_factory=list[tuple[int, float, int, int]])
    chunks: list[tuple[int, int, int]] = field(default_factory=list[tuple[int, int, int]])
    _queues: list[deque[int]] = field(default_factory=list[deque[int]])
    _running: list[int] = field(default_factory=list[int])
    _decoding: list[int] = field(default_factory=list[int])
    _cache: list[float] = field(default_factory=list[float])
    _left: dict[int, int] = field(default_factory=dict[int, int])
    _ends: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    _coming: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    admitted_per_step: int = 2
    _launched: int = 0
    _step: int = 0
    _waited: int = 0

    def __post_init__(self) -> None:
        ranks, total = self.loop.num_ranks, len(self.prompt)
        self._queues = [deque() for _ in range(ranks)]
        self._running, self._decoding, self._cache = [0] * ranks, [0] * ranks, [0.0] * ranks
        self.rank_of, self.arrived = [0] * total, [0] * total
        self.first, self.finished = [0] * total, [0] * total

    def run(self) -> None:
        """Run until every request has ended."""
        for client in range(min(self.loop.num_clients, len(self.prompt))):
            self._launch(client % self.loop.num_ranks, 0)
        done = 0
        while done < len(self.prompt):
            self._admit()
            ended = self._prompts()
            done += self._advance(ended) if ended is not None else self._stride()

    def _launch(self, rank: int, delay: int) -> None:
        """Let a client send its next request, which is seen when the steps under way have been through."""
        if self._launched == len(self.prompt):
            return
        request = self._launched
        self._launched += 1
        self.rank_of[request], self.arrived[request] = rank, len(self.segments)
        self._coming.append((self._step + delay, request))

    def _admit(self) -> None:
        left = self.admitted_per_step
        while left and self._coming and self._coming[0][0] <= self._step:
            _, request = self._coming.popleft()
            self._queues[self.rank_of[request]].append(request)
            left -= 1

    def _prompts(self) -> list[int] | None:
        """Take prompt tokens into the next step; return whose prompts end in it, None if it has none."""
        if self.how.wait_steps and self._waits():
            return None
        ended: list[int] = []
        most = total = 0
        for rank, queue in enumerate(self._queues):
            if queue:
                taken = self._take(rank, queue, ended)
                most, total = max(most, taken), total + taken
        if not total:
            return None
        self.segments.append((1, self._fullest(), most, total))
        return ended

    def _waits(self) -> bool:
        """Return whether the prompts that are there wait for ranks that have none."""
        together = all(self._ready(rank, queue) for rank, queue in enumerate(self._queues))
        if together or not all(self._decoding) or self._waited + 1 >= self.how.wait_steps:
            self._waited = 0
            return False
        return any(self._queues)

    def _ready(self, rank: int, queue: deque[int]) -> bool:
        return bool(queue) and (queue[0] in self._left or self._fits(rank, queue[0]))

    def _fullest(self) -> float:
        """Return the decode sequences of the fullest rank in one step."""
        most = max(self._decoding)
        return max(1.0, most / self.loop.num_stages) if most else 0.0

    def _take(self, rank: int, queue: deque[int], ended: list[int]) -> int:
        room = self.how.token_budget - ceil(self._decoding[rank] / self.loop.num_stages)
        taken = 0
        while room > 0 and queue:
            request = queue[0]
            left = self._left.get(request)
            if left is None:
                if not self._fits(rank, request):
                    break
                left = self.prompt[request]
                self._running[rank] += 1
                self._cache[rank] += self.held[request]
            count = min(room, left)
            room -= count
            taken += count
            self._left[request] = left - count
            self.chunks.append((len(self.segments), request, count))
            if count == left:
                ended.append(queue.popleft())
        return taken

    def _fits(self, rank: int, request: int) -> bool:
        if not self._running[rank]:
            return True
        room = self._cache[rank] + self.held[request] <= self.loop.cache_tokens
        return room and self._running[rank] < self.loop.max_sequences

    def _advance(self, ended: list[int]) -> int:
        """Finish a step with prompts."""
        self._step += 1
        done = self._retire()
        for request in ended:
            del self._left[request]
            self.first[request] = len(self.segments)
            self._decoding[self.rank_of[request]] += 1
            heappush(self._ends, (self._step + self.steps[request], request))
        return done + self._retire()

    def _stride(self) -> int:
        """Decode up to the next event; return how many requests ended."""
        if not self._ends:
            self.segments.append((0, 0.0, 0, 0))
            self._step = max(self._step + 1, self._coming[0][0] if self._coming else 0)
            return 0
        count = self._ends[0][0] - self._step
        if self._coming:
            count = max(1, min(count, self._coming[0][0] - self._step))
        if self.how.wait_steps:
            if any(self._queues):
                count = max(1, min(count, self.how.wait_steps - 1 - self._waited))
            self._waited = (self._waited + count) % self.how.wait_steps
        self.segments.append((count, self._fullest(), 0, 0))
        self._step += count
        return self._retire()

    def _retire(self) -> int:
        done = 0
        while self._ends and self._ends[0][0] <= self._step:
            _, request = heappop(self._ends)
            rank = self.rank_of[request]
            self.finished[request] = len(self.segments)
            self._running[rank] -= 1
            self._decoding[rank] -= 1
            self._cache[rank] -= self.held[request]
            self._launch(rank, self.loop.num_stages)
            done += 1
        return done

    def pattern(self, drawn: IntArray) -> Pattern:
        """Return what happened."""
        segments = np.array(self.segments, dtype=np.float64).reshape(-1, 4)
        chunks = np.array(self.chunks, dtype=np.int64).reshape(-1, 3)
        prompts = np.array(self.prompt, dtype=np.float64)
        return Pattern(
            num_steps=segments[:, 0],
            decode=segments[:, 1],
            prompt_tokens=segments[:, 2],
            mean_prompt_tokens=segments[:, 3] / self.loop.num_ranks,
            chunk_segment=chunks[:, 0],
            chunk_sample=drawn[chunks[:, 1]],
            chunk_share=chunks[:, 2] / prompts[chunks[:, 1]],
            sample=drawn,
            arrived=np.array(self.arrived, dtype=np.int64),
            first=np.array(self.first, dtype=np.int64),
            finished=np.array(self.finished, dtype=np.int64),
        )
