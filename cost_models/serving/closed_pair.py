"""What a fixed number of clients makes a prefill pool and a decode pool do, request by request.

Every client sends its next request when the last one ends; all start together, so prompts come in bursts. A
request is computed by one rank of a prefill worker, its cache is sent, and it waits for a place in a decode
worker: engines stream the first token from there, so that wait is part of the time to first token. With
fewer places than clients the rest of them queues in front of the decode pool, whatever the prefill does.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from random import Random

import numpy as np

from cost_models.cost import FloatArray
from cost_models.serving.closed_loop import num_waves, wave_weights, weighted_percentiles
from cost_models.serving.iteration import step_time
from cost_models.serving.requests import Requests
from cost_models.serving.tables import TimeTables

_SEED = 20260821
_ROUND = 1e-9
_ARRIVE, _PREFILLED, _HANDED_OVER, _DECODED = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillPool:
    """Workers that only prefill, `token_budget` tokens per step of one rank.

    The rank of a request is the next in turn, or drawn.
    """

    tables: TimeTables
    num_workers: int
    token_budget: int
    random_ranks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodePool:
    """Workers that only decode; a rank holds at most so many sequences and tokens of cache."""

    tables: TimeTables
    num_workers: int
    max_sequences: float
    cache_tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTimes:
    """What requests saw, seconds, with the weight of each; sequences in decode; busy share of prefill."""

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray
    weights: FloatArray
    sequences: float
    prefill_busy: float

    def mean(self, values: FloatArray) -> float:
        """Return the mean of a value over requests."""
        return float(self.weights @ values)

    def percentile(self, values: FloatArray, percentiles: FloatArray) -> FloatArray:
        """Return percentiles of a value over requests."""
        return weighted_percentiles(values, self.weights, percentiles)


def pair_times(
    num_clients: int, requests: Requests, prefill: PrefillPool, decode: DecodePool, transfer_s: FloatArray
) -> PairTimes:
    """Return what the requests of `num_clients` clients see; `transfer_s` is per sample.

    A long run starts with one burst and has ten requests per client; of large loads fewer are followed, and
    the first request of every client counts as one in ten all the same. Routers send to the worker with the
    fewest requests, and to the rank with the fewest.

    Source: own event model; the hand-over as in the documents of Dynamo, SGLang and TensorRT-LLM on
    disaggregated serving.
    """
    waves = num_waves(num_clients)
    rng = np.random.default_rng(_SEED)
    drawn = rng.choice(requests.weights.size, size=waves * num_clients, p=requests.weights)
    # both engines take a request in: tokenise or admit it, and send something on
    handover = transfer_s + decode.tables.per_request_s + prefill.tables.per_request_s
    attention = (prefill.tables.prompt_attention_s * prefill.tables.stage_counts[:, None]).sum(axis=0)
    step_s, chunk_s = _decode_step_s(decode.tables), _prefill_step_s(prefill)
    run = _Run(
        num_clients=num_clients,
        prompt=requests.new_tokens[drawn].tolist(),
        attention_s=attention[drawn].tolist(),
        handover_s=np.broadcast_to(handover, requests.weights.shape)[drawn].tolist(),
        steps=np.ceil(requests.steps[drawn]).tolist(),
        held=(requests.input_tokens[drawn] + requests.steps[drawn]).tolist(),
        prefill=[_PrefillWorker(prefill, chunk_s, seed) for seed in range(prefill.num_workers)],
        decode=[_DecodeWorker(decode, step_s) for _ in range(decode.num_workers)],
    )
    end_s = run.run()
    weights = wave_weights(drawn.size, num_clients)
    arrived, first, ended = (np.array(times) for times in (run.arrived_s, run.first_s, run.ended_s))
    decoding = ended - first
    return PairTimes(
        ttft_s=first - arrived,
        tpot_s=decoding / np.maximum(np.ceil(requests.steps[drawn]), 1.0),
        e2e_s=ended - arrived,
        weights=weights,
        sequences=float(decoding.sum()) / end_s,
        prefill_busy=sum(worker.busy_s for worker in run.prefill) / (end_s * len(run.prefill)),
    )


def _prefill_step_s(pool: PrefillPool) -> tuple[list[float], list[float], list[float]]:
    """Return, per tokens of a rank, the device's time, the part that all ranks share, and its latency.

    Launches are left out. Workers that only prefill do not run ahead of the device: a step's results are
    handed over before the next one is scheduled (the published configurations of TensorRT-LLM's context
    servers switch the overlapping scheduler off), so they are added to every step.
    """
    tokens = np.arange(pool.token_budget + 1, dtype=np.float64)
    none = np.zeros_like(tokens)
    tables = replace(pool.tables, prompt_step_s=np.zeros_like(pool.tables.prompt_step_s))
    step = step_time(tables, none, tokens)
    alone = step_time(tables, none, tokens, mean_tokens=none)
    return step.slot_s.tolist(), (step.slot_s - alone.slot_s).tolist(), step.fill_s.tolist()


class _PrefillWorker:
    """Prompts in order, in chunks of the budget on every rank; ranks run in lockstep."""

    __slots__ = (
        "_budget",
        "_draw",
        "_fill_s",
        "_launches_s",
        "_queues",
        "_shared_s",
        "_step_s",
        "_turn",
        "busy_s",
        "num_inside",
        "running",
    )

    def __init__(
        self, pool: PrefillPool, times: tuple[list[float], list[float], list[float]], seed: int
    ) -> None:
        self._step_s, self._shared_s, self._fill_s = times
        self._budget = pool.token_budget
        self._launches_s = float(pool.tables.prompt_step_s.max())
        self._queues: list[deque[int]] = [deque() for _ in range(pool.tables.num_attention_ranks)]
        self.num_inside, self.running, self.busy_s = 0, False, 0.0
        self._turn = 0
        self._draw = Random(seed) if pool.random_ranks else None

    def take(self, request: int) -> None:
        """Queue a request at its rank."""
        if self._draw is not None:
            self._turn = self._draw.randrange(len(self._queues))
        self._queues[self._turn].append(request)
        self._turn = (self._turn + 1) % len(self._queues)
        self.num_inside += 1

    def step(self, left: list[float], attention_s: list[float]) -> tuple[float, float, list[int]] | None:
        """Compute a step: its time, the time to its results, the requests whose prompts end; None if idle."""
        most = total = 0.0
        longest_s = 0.0
        ended: list[int] = []
        for queue in self._queues:
            room, seconds = float(self._budget), 0.0
            while room > 0.0 and queue:
                request = queue[0]
                count = min(room, left[request])
                seconds += attention_s[request] * count / left[request]
                attention_s[request] -= attention_s[request] * count / left[request]
                room -= count
                left[request] -= count
                if left[request] <= 0.0:
                    ended.append(queue.popleft())
            taken = self._budget - room
            most, total, longest_s = max(most, taken), total + taken, max(longest_s, seconds)
        self.running = total > 0.0
        if not self.running:
            return None
        fullest, mean = int(most), int(total / len(self._queues))
        device_s = self._step_s[fullest] - self._shared_s[fullest] + self._shared_s[mean] + longest_s
        seconds = device_s + self._launches_s
        self.busy_s += seconds
        self.num_inside -= len(ended)
        return seconds, seconds + self._fill_s[fullest], ended


def _decode_step_s(tables: TimeTables) -> list[float]:
    """Return the time of a decode step of every number of sequences per rank."""
    top = int(min(tables.sequence_grid[-1], tables.token_grid[-1]))
    counts = np.arange(top + 1, dtype=np.float64) / tables.num_stages
    return (step_time(tables, counts, np.zeros_like(counts)).slot_s * tables.num_stages).tolist()


class _DecodeWorker:
    """Sequences in decode. `_done` counts steps; a request ends when it has passed as many as it needs."""

    __slots__ = (
        "_cache",
        "_done",
        "_ends",
        "_inside",
        "_loads",
        "_pool",
        "_ranks",
        "_since_s",
        "_step_s",
        "_waiting",
        "num_inside",
        "version",
    )

    def __init__(self, pool: DecodePool, step_s: list[float]) -> None:
        ranks = pool.tables.num_attention_ranks
        self._step_s, self._pool = step_s, pool
        self.num_inside = 0
        self._loads, self._ranks = [0] * ranks, [(0, rank) for rank in range(ranks)]
        self._inside, self._cache = [0] * ranks, [0.0] * ranks
        self._waiting: list[deque[int]] = [deque() for _ in range(ranks)]
        self._ends: list[tuple[float, int, int]] = []
        self._done, self._since_s, self.version = 0.0, 0.0, 0

    def take(self, request: int) -> int:
        """Queue a request at the rank with the fewest, and return the rank."""
        load, rank = heappop(self._ranks)
        while load != self._loads[rank]:
            load, rank = heappop(self._ranks)
        self._waiting[rank].append(request)
        self.num_inside += 1
        self._count(rank, 1)
        return rank

    def _count(self, rank: int, more: int) -> None:
        """Change what runs or waits at a rank; entries of the heap with an old number are outdated."""
        self._loads[rank] += more
        heappush(self._ranks, (self._loads[rank], rank))

    def advance(self, now_s: float) -> None:
        """Pass the steps up to now."""
        fullest = max(self._inside)
        if fullest:
            self._done += (now_s - self._since_s) / self._time(fullest)
        self._since_s = now_s

    def admit(self, rank: int, steps: list[float], held: list[float]) -> list[int]:
        """Start waiting requests of a rank while there is room; an empty rank takes any request."""
        started: list[int] = []
        waiting = self._waiting[rank]
        while waiting:
            need = held[waiting[0]]
            full = self._inside[rank] + 1 > self._pool.max_sequences
            if self._inside[rank] and (full or self._cache[rank] + need > self._pool.cache_tokens):
                break
            request = waiting.popleft()
            self._inside[rank] += 1
            self._cache[rank] += need
            heappush(self._ends, (self._done + steps[request], request, rank))
            started.append(request)
        return started

    def ended(self, held: list[float]) -> list[tuple[int, int]]:
        """Return requests (with their ranks) that have passed all their steps, and free their places."""
        found: list[tuple[int, int]] = []
        while self._ends and self._ends[0][0] <= self._done + _ROUND:
            _, request, rank = heappop(self._ends)
            self._inside[rank] -= 1
            self._cache[rank] -= held[request]
            self.num_inside -= 1
            self._count(rank, -1)
            found.append((request, rank))
        return found

    def next_end_s(self) -> float | None:
        """Return when the next request ends if nobody joins before, and outdate what was said earlier."""
        self.version += 1
        if not self._ends:
            return None
        return self._since_s + max(0.0, self._ends[0][0] - self._done) * self._time(max(self._inside))

    def _time(self, count: int) -> float:
        return self._step_s[min(count, len(self._step_s) - 1)]


@dataclass(slots=True, kw_only=True)
class _Run:
    num_clients: int
    prompt: list[float]
    attention_s: list[float]
    handover_s: list[float]
    steps: list[float]
    held: list[float]
    prefill: list[_PrefillWorker]
    decode: list[_DecodeWorker]
    arrived_s: list[float] = field(default_factory=list[float])
    first_s: list[float] = field(default_factory=list[float])
    ended_s: list[float] = field(default_factory=list[float])
    _events: list[tuple[float, int, int, int, int]] = field(
        default_factory=list[tuple[float, int, int, int, int]]
    )
    _count: int = 0
    _launched: int = 0

    def run(self) -> float:
        """Run until every request has ended, and return when that was."""
        total = len(self.prompt)
        self.arrived_s, self.first_s, self.ended_s = [0.0] * total, [0.0] * total, [0.0] * total
        for _ in range(min(self.num_clients, total)):
            self._launch(0.0)
        now_s, left = 0.0, total
        while left:
            now_s, _, kind, who, what = heappop(self._events)
            if kind == _ARRIVE:
                self._arrive(now_s, who)
            elif kind == _PREFILLED:
                self._compute(now_s, who)
            elif kind == _HANDED_OVER:
                self._handed_over(now_s, who)
            elif self.decode[who].version == what:
                left -= self._decoded(now_s, who)
        return now_s

    def _push(self, at_s: float, kind: int, who: int, what: int = 0) -> None:
        self._count += 1
        heappush(self._events, (at_s, self._count, kind, who, what))

    def _launch(self, now_s: float) -> None:
        if self._launched < len(self.prompt):
            self.arrived_s[self._launched] = now_s
            self._push(now_s, _ARRIVE, self._launched)
            self._launched += 1

    def _arrive(self, now_s: float, request: int) -> None:
        workers, turn = self.prefill, request % len(self.prefill)
        who = min(range(turn, turn + len(workers)), key=lambda w: workers[w % len(workers)].num_inside)
        who %= len(workers)
        workers[who].take(request)
        if not workers[who].running:
            self._compute(now_s, who)

    def _compute(self, now_s: float, who: int) -> None:
        done = self.prefill[who].step(self.prompt, self.attention_s)
        if done is not None:
            seconds, through_s, ended = done
            for request in ended:
                self._push(now_s + through_s + self.handover_s[request], _HANDED_OVER, request)
            self._push(now_s + seconds, _PREFILLED, who)

    def _handed_over(self, now_s: float, request: int) -> None:
        workers, turn = self.decode, request % len(self.decode)
        who = min(range(turn, turn + len(workers)), key=lambda w: workers[w % len(workers)].num_inside)
        who %= len(workers)
        worker = workers[who]
        worker.advance(now_s)
        self._start(now_s, who, {worker.take(request)})

    def _start(self, now_s: float, who: int, ranks: set[int]) -> None:
        worker = self.decode[who]
        for rank in sorted(ranks):
            for request in worker.admit(rank, self.steps, self.held):
                self.first_s[request] = now_s
        end_s = worker.next_end_s()
        if end_s is not None:
            self._push(end_s, _DECODED, who, worker.version)

    def _decoded(self, now_s: float, who: int) -> int:
        worker = self.decode[who]
        worker.advance(now_s)
        ended = worker.ended(self.held)
        for request, _ in ended:
            self.ended_s[request] = now_s
            self._launch(now_s)
        self._start(now_s, who, {rank for _, rank in ended})
        return len(ended)
