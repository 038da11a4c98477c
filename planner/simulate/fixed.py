"""A fixed configuration under a load, simulated: what measured runs are held against, beside the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from cost_models.serving.closed_loop import (
    admitted_per_step,
    num_waves,
    wave_weights,
    weighted_percentiles,
)
from cost_models.work import KvTransfer, LinkSpec
from planner.ir.trace import RequestTrace
from planner.simulate.routing.least_loaded import ROUTER as LEAST_LOADED
from planner.simulate.serving_engine import Engine
from planner.simulate.serving_loop import ClosedLoop
from planner.simulate.serving_request import Request
from planner.simulate.serving_times import ReplicaModel, built_model
from planner.space.evaluate import Evaluator, FixedReplica

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

_NUM_OPEN = 2000
_SEED = 20260821
_MAX_MODELS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLoad:
    """Clients that wait for their answers, or requests per second, or requests that were recorded.

    `link` is what caches cross from prefill to decode workers.
    """

    num_clients: int | None = None
    rate_rps: float | None = None
    trace: RequestTrace | None = None
    link: LinkSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedRun:
    """What every request saw, seconds, and output tokens per second of the whole configuration.

    `tpot_s` leaves out requests of a single token; `weights` are the shares of a benchmark that requests
    stand for.
    """

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray
    weights: FloatArray
    output_tokens_per_s: float
    interruptions: int

    def statistic(self, values: FloatArray, percentile: float | None) -> float:
        """Return a percentile of what all requests saw, or the mean where none is asked for."""
        if percentile is None:
            return float(self.weights @ values)
        return float(weighted_percentiles(values, self.weights, np.array([percentile]))[0])


@dataclass(slots=True, kw_only=True)
class FixedSimulator:
    """Simulates configurations of evaluators; what was priced last is kept."""

    _models: dict[tuple[int, FixedReplica, int], ReplicaModel | None] = field(
        default_factory=dict[tuple[int, FixedReplica, int], ReplicaModel | None]
    )

    def run(
        self, evaluator: Evaluator, halves: Sequence[FixedReplica], load: FixedLoad
    ) -> SimulatedRun | None:
        """Return what a configuration does under a load; None if it does not fit.

        `halves` are aggregated replicas, or those of prefill and of decode.
        """
        requests = _requests(evaluator, load)
        longest = max(r.context + r.steps for r in requests)
        longest = 2 ** (longest - 1).bit_length()
        models = [self._model(evaluator, half, longest) for half in halves]
        known = [model for model in models if model is not None]
        if len(known) < len(models):
            return None
        if load.num_clients is not None and len(halves) == 1:
            # the front end shows in closed loops of whole servers alone
            stated = evaluator.costs.software.admission_s
            known = [replace(known[0], admission_s=0.0 if stated is None else stated.value)]
        groups = _engines(known, halves)
        transfer_s = _transfer_per_token_s(evaluator, halves, load)

        def transfer(request: Request) -> float:
            return transfer_s * request.context

        if load.num_clients is not None:
            loop = ClosedLoop(halves=groups, num_clients=load.num_clients, transfer_s=transfer)
            if len(groups) == 1:
                each = max(1, round(load.num_clients / halves[0].replicas))
                loop.admitted_per_step = admitted_per_step(each, evaluator.builder.requests.mean_steps)
            loop.run(requests)
        else:
            _open_loop(groups, requests, transfer_s)
        return _seen(requests, load.num_clients or 0)

    def _model(self, evaluator: Evaluator, half: FixedReplica, longest: int) -> ReplicaModel | None:
        key = (id(evaluator), half, longest)
        if key not in self._models:
            replica = evaluator.replica(half)
            found = None
            if replica is not None:
                found = built_model(evaluator.builder, replica.shape, replica.layers_per_stage, longest)
            if found is not None:
                found = replace(found, prompt_wait_steps=half.prompt_wait_steps)
            if len(self._models) == _MAX_MODELS:
                del self._models[next(iter(self._models))]
            self._models[key] = found
        return self._models[key]


def _engines(models: Sequence[ReplicaModel], halves: Sequence[FixedReplica]) -> list[list[Engine]]:
    groups: list[list[Engine]] = []
    for model, half in zip(models, halves, strict=True):
        groups.append(
            [
                Engine(model=model, prefills=half.role != "decode", decodes=half.role != "prefill")
                for _ in range(half.replicas)
            ]
        )
    return groups


def _requests(evaluator: Evaluator, load: FixedLoad) -> list[Request]:
    """Return the requests of a load; without a trace they are drawn from the evaluator's lengths."""
    rng = np.random.default_rng(_SEED)
    if load.trace is not None:
        inputs, outputs = np.array(load.trace.input_tokens), np.array(load.trace.output_tokens)
        arrivals = np.array(load.trace.arrival_s)
    else:
        count = _count(load)
        samples = np.array([(i, o) for i, o, _ in evaluator.workload.lengths.samples])
        weights = np.array([w for _, _, w in evaluator.workload.lengths.samples])
        picks = rng.choice(len(samples), size=count, p=weights / weights.sum())
        inputs, outputs = samples[picks, 0], samples[picks, 1]
        arrivals = np.cumsum(rng.exponential(1.0 / (load.rate_rps or inf), count))
    return [
        Request(arrival_s=at, ready_s=at, cached=0, new=tokens, steps=max(0, produced - 1))
        for at, tokens, produced in zip(arrivals.tolist(), inputs.tolist(), outputs.tolist(), strict=True)
    ]


def _count(load: FixedLoad) -> int:
    if load.num_clients is None:
        return _NUM_OPEN
    return load.num_clients * num_waves(load.num_clients)


def _transfer_per_token_s(evaluator: Evaluator, halves: Sequence[FixedReplica], load: FixedLoad) -> float:
    """Return what a token of a prompt takes from prefill to decode, seconds."""
    replicas = [evaluator.replica(half) for half in halves]
    known = [replica for replica in replicas if replica is not None]
    if len(known) < 2 or load.link is None:
        return 0.0
    lanes = float(min(replica.cache_lanes for replica in known))
    requests = evaluator.builder.requests
    num_bytes = requests.mean(evaluator.builder.prompt_cache_bytes(known[0].shape))
    work = KvTransfer(num_bytes=num_bytes, link=load.link, num_lanes=lanes)
    return float(evaluator.costs.model.price(work).time_s) / requests.mean(requests.input_tokens)


def _open_loop(groups: Sequence[Sequence[Engine]], requests: Sequence[Request], transfer_s: float) -> None:
    """Send requests as they come to the least loaded rank of each group."""
    for number, group in enumerate(groups):
        for request in requests:
            if number:
                request.first_s += transfer_s * request.context
                request.ready_s, request.done = request.first_s, 0
        ranks = [rank for engine in group for rank in engine.ranks]
        router = LEAST_LOADED(_SEED)
        for request in sorted(requests, key=lambda r: r.ready_s):
            for engine in group:
                engine.advance(request.ready_s)
            ranks[router.choose(ranks, request) if len(ranks) > 1 else 0].admit(request)
        for engine in group:
            engine.advance(inf)


def _seen(requests: Sequence[Request], num_clients: int) -> SimulatedRun:
    arrival = np.array([r.arrival_s for r in requests])
    first = np.array([r.first_s for r in requests])
    finish = np.array([r.finish_s for r in requests])
    steps = np.array([r.steps + r.produced for r in requests], dtype=np.float64)
    decoded = steps > 0
    span = max(float(finish.max() - arrival.min()), 1e-9)
    return SimulatedRun(
        ttft_s=first - arrival,
        tpot_s=(finish - first)[decoded] / steps[decoded],
        e2e_s=finish - arrival,
        weights=wave_weights(len(requests), num_clients),
        output_tokens_per_s=float((steps + 1.0).sum()) / span,
        interruptions=sum(r.interruptions for r in requests),
    )
