"""What a pool does at a rate: mean step, time per token, time to first token, in scalar arithmetic.

One attention rank starts x requests per step. Each of them is in s decode steps, so x s sequences decode
at a time; its prompt goes through in chunks that share steps with them. A mean step then takes
T(x) = T(decode only) + P(prompt in the step) (T(with a chunk) - T(decode only)), the rank serves x / T(x)
requests per second, and x follows from the rate by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, exp, inf, isfinite, isinf, log, sqrt
from statistics import NormalDist

from planner.ir.workload import ServingWorkload
from planner.verify.serving.steps import Batch, StepPricer

_SPREAD_OF_STAYS = 0.5
"""Squared variation of the stays of equal requests, as busy moments have longer steps."""
CUTS = (0.2, 0.4, 0.6, 0.8)
_BISECTIONS = 30
_SCAN = 1.4
"""Ratio of the batch sizes looked at for the first that keeps up."""
_FINEST = 1e-4
_CLOSE = 1e-3
"""Relative width at which the batch that keeps up is known well enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptBin:
    """Requests of about the same length: tokens in, tokens to compute, decode steps, share."""

    tokens: float
    new: float
    steps: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """A workload in a few bins, with the moments that a steady state needs, exact over all samples."""

    bins: tuple[PromptBin, ...]
    mean_new: float
    mean_steps: float
    context: float
    context_scv: float = 0.0
    steps_scv: float = 0.0

    @staticmethod
    def of(workload: ServingWorkload, cuts: Sequence[float] = CUTS) -> Requests:
        """Bin a workload by prompt length; a bin ends with the request that completes such a share of all.

        The mean context is length-biased: a request of s steps is met s times as often as one of one.
        """
        miss = 1.0 - workload.prefix_hit_share
        samples = [
            PromptBin(tokens=float(i), new=max(1.0, i * miss), steps=max(0.0, o - 1.0), share=w)
            for i, o, w in sorted(workload.lengths.samples)
        ]
        steps = sum(b.steps * b.share for b in samples)
        cached = sum(b.steps * b.share * (b.tokens + (b.steps + 1) / 2) for b in samples)
        squares = sum(
            b.steps * b.share * (b.tokens**2 + b.tokens * b.steps + b.steps**2 / 3.0) for b in samples
        )
        spread = sum(b.steps**2 * b.share for b in samples)
        return Requests(
            bins=tuple(_merged(group) for group in _groups(samples, cuts)),
            mean_new=sum(b.new * b.share for b in samples),
            mean_steps=steps,
            context=cached / steps if steps else samples[-1].tokens,
            context_scv=max(0.0, squares * steps / cached**2 - 1.0) if steps else 0.0,
            steps_scv=max(0.0, spread / steps**2 - 1.0) if steps else 0.0,
        )

    def places(self, held: float) -> float:
        """Return how many requests run at once, in the mean, while others wait, where `held` fit.

        Half of the request that waits first would fit, and longer ones wait more often; one always runs.
        """
        return max(1.0, held - 0.5 * (1.0 + self.context_scv))


def _groups(samples: Sequence[PromptBin], cuts: Sequence[float]) -> list[list[PromptBin]]:
    """Split sorted samples into a few groups."""
    total = sum(b.share for b in samples)
    groups: list[list[PromptBin]] = [[]]
    weight = 0.0
    for sample in samples:
        if groups[-1] and len(groups) <= len(cuts) and weight >= cuts[len(groups) - 1] * total:
            groups.append([])
        groups[-1].append(sample)
        weight += sample.share
    return groups


def _merged(group: Sequence[PromptBin]) -> PromptBin:
    share = sum(b.share for b in group)

    def mean(values: list[float]) -> float:
        return sum(v * b.share for v, b in zip(values, group, strict=True)) / share

    return PromptBin(
        tokens=mean([b.tokens for b in group]),
        new=mean([b.new for b in group]),
        steps=mean([b.steps for b in group]),
        share=share,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolFacts:
    """What the load of a pool rests on besides its step times."""

    role: str
    replicas: int
    token_budget: float
    burstiness: float = 1.0
    extra_ttft_s: float = 0.0
    concurrency: int | None = None
    places: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """A pool at a load, per attention rank where a count is meant."""

    rate_rps: float
    tpot_s: float
    own: tuple[tuple[float, float], ...]
    """Share and time to first token without waiting, of each bin of requests."""
    waiting_s: float
    waiting_share: float
    sequences: float
    busy: float

    @property
    def ttft_s(self) -> float:
        """Mean time to first token."""
        return sum(share * own for share, own in self.own) + self.waiting_s

    def late_share(self, ttft_s: float, longer: float = 1.0) -> float:
        """Return how many first tokens come later than that; waiting is zero or exponential.

        `longer` stretches the last bin, of the longest prompts.
        """
        last = len(self.own) - 1
        mean_if_s = self.waiting_s / self.waiting_share if self.waiting_share > 0.0 else 0.0
        late = 0.0
        for index, (share, own) in enumerate(self.own):
            slack = ttft_s - own * (longer if index == last else 1.0)
            if slack < 0.0:
                late += share
            elif mean_if_s > 0.0:
                late += share * self.waiting_share * exp(-slack / mean_if_s)
        return late


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Upper limits on an aggregated pool: latencies at a percentile, sequences per rank."""

    ttft_s: float = inf
    tpot_s: float = inf
    e2e_s: float = inf
    percentile: float = 0.0
    sequences: float = inf
    longer: float = 1.0
    """The prompt at the percentile over the mean of the longest bin, if that is shorter."""

    def kept_by(self, load: PoolLoad, started: float) -> bool:
        """Return whether the pool keeps them when each rank starts so many requests per step."""
        tpot, mean = load.tpot_if(started, self.percentile), load.requests.mean_steps
        if tpot > self.tpot_s or started * mean * load.pricer.pool.strategy.pp > self.sequences:
            return False
        state = load.state_at(started)
        if state.busy >= 1.0:
            return False
        if not self.percentile:
            return state.ttft_s <= self.ttft_s and state.ttft_s + mean * tpot <= self.e2e_s
        late = 1.0 - self.percentile / 100.0
        last = max(b.steps for b in load.requests.bins)
        first = min(self.ttft_s, self.e2e_s - last * tpot)
        return isinf(first) or state.late_share(first, self.longer) <= late


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLoad:
    """Works out the state of a pool."""

    pricer: StepPricer
    requests: Requests
    facts: PoolFacts

    @property
    def num_queues(self) -> int:
        """Attention ranks of the pool: each prefills on its own."""
        return self.facts.replicas * self.pricer.pool.strategy.attention_dp

    def at_rate(self, rate_rps: float) -> LoadState | None:
        """Return the pool at a rate of the whole pool, None if it cannot keep up.

        Steps can get abruptly longer at some batch sizes, so the rate need not rise all the way: the least
        batch that keeps up is the one where the pool settles. It is at least what arrives in a step with
        hardly anything in it.
        """
        per_rank = rate_rps / self.num_queues
        if self.facts.role == "prefill":
            return self._prefilling(per_rank)
        started = self._started_at(per_rank)
        return None if started is None else self._state(started, per_rank)

    def keeps(self, limits: Limits, rate_rps: float) -> bool:
        """Return whether a pool that decodes carries a rate within the limits."""
        started = self._started_at(rate_rps / self.num_queues)
        return started is not None and limits.kept_by(self, started)

    def _started_at(self, per_rank: float) -> float | None:
        """Return the requests per step at which a rank carries its rate, None if it cannot."""
        low = high = min(per_rank * self._step(self._most() * _FINEST)[0], self._most())
        lack, spare = inf, 0.0
        while (spare := high - per_rank * self._step(high)[0]) < 0.0:
            if high >= self._most():
                return None
            # Steps get no shorter with more in them, so what arrives in this one is too little still.
            low, lack, high = high, -spare, min(max(high * _SCAN, high - spare), self._most())
        for trial in range(_BISECTIONS if lack < inf else 0):
            if high - low < _CLOSE * high:
                break
            straight = low + (high - low) * lack / (lack + spare) + 0.25 * _CLOSE * high
            middle = 0.5 * (low + high) if trial % 3 == 2 else min(straight, high - 0.25 * _CLOSE * high)
            left = middle - per_rank * self._step(middle)[0]
            if left < 0.0:
                low, lack = middle, -left
            else:
                high, spare = middle, left
        return high

    def highest(self, limits: Limits) -> float:
        """Return the highest rate of the whole pool that keeps the limits, 0 if there is none."""
        low, high = 0.0, self._most()
        if not limits.kept_by(self, high * 1e-3):
            return 0.0
        for _ in range(_BISECTIONS // 2):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if limits.kept_by(self, middle) else (low, middle)
        return self._per_second(low) * self.num_queues

    def state_at(self, started: float) -> LoadState:
        """Return the pool when each rank starts so many requests per step."""
        return self._state(started, self._per_second(started))

    def tpot_if(self, started: float, percentile: float) -> float:
        """Return the time per token that a request meets at a percentile of the load around it.

        The number in flight is Poisson; its mean over one request's stay has variance 2/3 of that.
        """
        stages = self.pricer.pool.strategy.pp
        running = started * self.requests.mean_steps * stages
        if percentile > 50.0 and running > 0.0:
            z = NormalDist().inv_cdf(percentile / 100.0)
            met = min(running + z * sqrt(2.0 * running / 3.0), max(running, self.facts.places))
            started = min(started * met / running, self._most())
        return self._step(started)[0] * stages

    def _most(self) -> float:
        """Return the most requests per step that the token budget lets through."""
        tokens = self.requests.mean_steps + (
            self.requests.mean_new if self.facts.role == "aggregated" else 0.0
        )
        return 0.999 * self.facts.token_budget / tokens

    def _per_second(self, started: float) -> float:
        return started / self._step(started)[0]

    def _step(self, started: float) -> tuple[float, float]:
        """Return the mean step and the share of steps with prompt tokens, at x requests per step."""
        decode = self._decode(started)
        empty = self.pricer.slot_seconds(decode)
        if self.facts.role == "decode":
            return empty, 0.0
        busy = extra = 0.0
        for b in self.requests.bins:
            mixed, chunks = self._mixed(b, decode, started)
            busy += started * b.share * chunks
            extra += started * b.share * chunks * (self.pricer.slot_seconds(mixed) - empty)
        ranks = self.pricer.pool.strategy.attention_dp
        together = 1.0 - (1.0 - min(busy, 1.0)) ** ranks
        return empty + (extra * together / busy if busy > 0.0 else 0.0), busy

    def _decode(self, started: float) -> Batch:
        """Return the decode part of a step as a running sequence meets it.

        Under random arrivals it meets the mean and itself; among a fixed number it is one of the mean.
        The others come and go as a Poisson number does.
        """
        if self.requests.mean_steps <= 0.0:
            return Batch(decode=0.0, context=self.requests.context)
        others = started * self.requests.mean_steps
        if self.facts.concurrency:
            return Batch(decode=max(1.0, others), context=self.requests.context)
        running = others + 1.0 / self.pricer.pool.strategy.pp
        return Batch(decode=max(1.0, running), context=self.requests.context, deviation=sqrt(others))

    def _mixed(self, b: PromptBin, decode: Batch, started: float) -> tuple[Batch, float]:
        """Return a step with prompt tokens of a bin, and how many such steps a prompt takes."""
        room = max(1.0, self.facts.token_budget - decode.decode)
        chunk = min(room, max(b.new, started * self.requests.mean_new))
        pieces = max(1.0, chunk / b.new)
        tokens = chunk / pieces
        before = b.tokens - b.new + max(0.0, (b.new - tokens) / 2.0)
        begun = chunk / b.new
        return replace(decode, prompt=tokens, before=before, pieces=pieces, begun=begun), b.new / chunk

    def _state(self, started: float, per_rank: float) -> LoadState:
        step, _ = self._step(started)
        stages = self.pricer.pool.strategy.pp
        decode = self._decode(started)
        own: list[tuple[float, float]] = []
        service: list[tuple[float, float]] = []
        if self.facts.role == "aggregated":
            empty = self.pricer.slot_seconds(decode)
            before = self.pricer.software.per_request_s.value
            before += 0.5 * empty if self.requests.mean_steps else 0.0
            for b in self.requests.bins:
                mixed, chunks = self._mixed(b, decode, started)
                seconds = self.pricer.stage_seconds(mixed)
                count = max(1.0, chunks)
                alone = count * max(seconds) + sum(seconds) - max(seconds)
                alone += (ceil(chunks - 1e-9) - chunks if chunks > 1 else 0.0) * empty
                own.append((b.share, before + alone))
                service.append((b.share, self._backlog(b, decode)))
        probability, wait = waiting(self._seen(per_rank), service, self.num_queues, self.facts.burstiness)
        if isfinite(self.facts.places):
            taken, first = self._waiting_for_a_place(per_rank, step * stages)
            probability, wait = 1.0 - (1.0 - probability) * (1.0 - taken), wait + first
        return LoadState(
            rate_rps=per_rank * self.num_queues,
            tpot_s=step * stages if self.requests.mean_steps else 0.0,
            own=tuple(own),
            waiting_s=wait,
            waiting_share=probability,
            sequences=started * self.requests.mean_steps * stages,
            busy=per_rank * sum(share * s for share, s in service),
        )

    def _waiting_for_a_place(self, per_rank: float, tpot_s: float) -> tuple[float, float]:
        """Return how probable it is that all places are taken, and the mean wait for one."""
        places, stay_s = self.facts.places, tpot_s * self.requests.mean_steps
        return waiting_for(
            per_rank / places,
            (stay_s, self.requests.steps_scv + _SPREAD_OF_STAYS),
            self.num_queues * places,
            self.facts.burstiness,
        )

    def _seen(self, per_rank: float) -> float:
        """Return the rate that an arrival finds: in a closed loop, that of the others (arrival theorem)."""
        if not self.facts.concurrency:
            return per_rank
        return per_rank * (1.0 - 1.0 / max(1.0, self.facts.concurrency / self.num_queues))

    def _backlog(self, b: PromptBin, decode: Batch) -> float:
        """Return by how much a prompt lengthens a queue of prompts: its share of full steps."""
        room = max(1.0, self.facts.token_budget - decode.decode)
        pieces = max(1.0, room / b.new)
        tokens = room / pieces
        before = b.tokens - b.new + max(0.0, (b.new - tokens) / 2.0)
        mixed = replace(decode, prompt=tokens, before=before, pieces=pieces, begun=room / b.new)
        full = self.pricer.slot_seconds(mixed)
        return full * b.new / room

    def _prefilling(self, per_rank: float) -> LoadState | None:
        before_any = self.pricer.software.per_request_s.value + self.facts.extra_ttft_s
        own: list[tuple[float, float]] = []
        service: list[tuple[float, float]] = []
        for b in self.requests.bins:
            count = max(1.0, ceil(b.new / self.facts.token_budget - 1e-9))
            tokens = b.new / count
            before = b.tokens - b.new + (b.new - tokens) / 2.0
            batch = Batch(decode=0.0, context=1.0, prompt=tokens, before=before, begun=1.0 / count)
            seconds = self.pricer.stage_seconds(batch)
            own.append((b.share, before_any + count * max(seconds) + sum(seconds) - max(seconds)))
            alone = count * max(seconds)
            idle = Batch(decode=0.0, context=1.0)
            service.append((b.share, min(alone, self._backlog(b, idle))))
        busy = per_rank * sum(share * s for share, s in service)
        if busy >= 1.0:
            return None
        probability, wait = waiting(per_rank, service, self.num_queues, self.facts.burstiness)
        return LoadState(
            rate_rps=per_rank * self.num_queues,
            tpot_s=0.0,
            own=tuple(own),
            waiting_s=wait,
            waiting_share=probability,
            sequences=0.0,
            busy=busy,
        )


def waiting(
    rate_per_queue: float, service: Sequence[tuple[float, float]], num_queues: int, burstiness: float
) -> tuple[float, float]:
    """Return the probability of waiting and the mean wait (seconds) of one line before many servers.

    Source: Allen-Cunneen with Sakasegawa's (1977) approximation of Erlang C; exact for M/M/1.
    """
    mean = sum(share * s for share, s in service)
    if mean <= 0.0:
        return 0.0, 0.0
    spread = sum(share * s * s for share, s in service) / mean**2 - 1.0
    return waiting_for(rate_per_queue, (mean, max(0.0, spread)), num_queues, burstiness)


def waiting_for(
    rate_per_server: float, service: tuple[float, float], num_servers: float, burstiness: float
) -> tuple[float, float]:
    """Return probability and mean (seconds) of waiting; `service` is its mean and squared variation."""
    mean, spread = service
    load = rate_per_server * mean
    if load >= 1.0:
        return 1.0, inf
    probability = exp(log(load) * (sqrt(2.0 * (num_servers + 1)) - 1.0)) if load > 0.0 else 0.0
    if_any = mean * (burstiness + spread) / (2.0 * num_servers * (1.0 - load))
    return probability, probability * if_any
