"""A served plan under a stream of requests: a second opinion on its latencies, one engine step at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import cast

import numpy as np

from planner.errors import InputError, UnsupportedError
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.ir.trace import RequestTrace
from planner.plan.schema import Plan, Pool
from planner.simulate.serving_engine import Engine, Rank, Request
from planner.simulate.serving_times import ReplicaModel, replica_model

PERCENTILES = (50.0, 90.0, 99.0)
_WARM_UP_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationOptions:
    """How much to simulate: requests, their rate (None: what the plan serves), and the seed."""

    num_requests: int = 5000
    rate_rps: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationReport:
    """What was seen: (name, simulated, predicted or None) per figure, after the warm-up."""

    num_requests: int
    duration_s: float
    rate_rps: float
    figures: tuple[tuple[str, float, float | None], ...]
    cache_overflows: int

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain values."""
        return {
            "num_requests": self.num_requests,
            "duration_s": self.duration_s,
            "rate_rps": self.rate_rps,
            "cache_overflows": self.cache_overflows,
            "figures": {name: {"simulated": s, "predicted": p} for name, s, p in self.figures},
        }


def simulate_plan(
    plan: Plan, problem: Problem[object], options: SimulationOptions, trace: RequestTrace | None = None
) -> SimulationReport:
    """Simulate a served plan under random arrivals, or under a trace.

    Raises
    ------
    InputError
        If the plan has nothing to simulate.
    UnsupportedError
        If the plan is of another kind.
    """
    if problem.kind != "serving":
        raise UnsupportedError("only served plans can be simulated", key="kind", value=problem.kind)
    if not plan.pools:
        raise InputError("this plan has nothing to simulate", key="status", value=plan.status)
    payload = cast("ServingProblem", problem.payload)
    requests = _requests(plan, payload, options, trace)
    longest = max(r.context for r in requests)
    groups = {group.name: group for group in problem.cluster.groups}
    models = {p.name: replica_model(payload, p, groups[p.node_group], longest) for p in plan.pools}
    overflows = 0
    for roles in (("aggregated", "prefill"), ("decode",)):
        pools = [pool for pool in plan.pools if pool.role in roles]
        if pools and (roles == ("decode",) or "decode" not in {p.role for p in pools}):
            overflows += _serve(plan, pools, models, requests, options.seed)
    return _report(plan, requests, overflows)


def _requests(
    plan: Plan, payload: ServingProblem, options: SimulationOptions, trace: RequestTrace | None
) -> list[Request]:
    workload = payload.workload
    rng = np.random.default_rng(options.seed)
    if trace is not None:
        inputs, outputs = np.array(trace.input_tokens), np.array(trace.output_tokens)
        count = len(inputs)
    else:
        samples = np.array([(i, o) for i, o, _ in workload.lengths.samples])
        weights = np.array([w for _, _, w in workload.lengths.samples])
        count = options.num_requests
        picks = rng.choice(len(samples), size=count, p=weights / weights.sum())
        inputs, outputs = samples[picks, 0], samples[picks, 1]
    if trace is not None and trace.arrival_s and options.rate_rps is None:
        arrivals = np.array(trace.arrival_s)
    else:
        arrivals = _arrivals(rng, count, _rate(plan, payload, options), workload.burstiness)
    hit = workload.prefix_hit_share
    found: list[Request] = []
    for at, tokens, produced in zip(arrivals.tolist(), inputs.tolist(), outputs.tolist(), strict=True):
        new = max(1, round(tokens * (1.0 - hit)))
        found.append(Request(arrival_s=at, cached=max(0, tokens - new), new=new, steps=max(0, produced - 1)))
    return found


def _rate(plan: Plan, payload: ServingProblem, options: SimulationOptions) -> float:
    served = plan.predicted.get("request_rate_rps")
    rate = options.rate_rps or payload.workload.rate_rps or (served.value if served is not None else None)
    if not rate:
        raise InputError("the plan does not say which rate it serves", hint="Give one with --rate.")
    return rate


def _arrivals(
    rng: np.random.Generator, count: int, rate_rps: float, burstiness: float
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return arrival times whose gaps are gamma distributed with this squared variation.

    They are scaled to come at the rate exactly, so that chance does not push a full pool over the edge.
    """
    shape = 1.0 / max(burstiness, 1e-9)
    times = np.cumsum(rng.gamma(shape, size=count))
    return times * (count / rate_rps / times[-1])


def _serve(
    plan: Plan, pools: Sequence[Pool], models: dict[str, ReplicaModel], requests: list[Request], seed: int
) -> int:
    """Send requests through the pools of one half, each to the least loaded rank of its pool."""
    rng = np.random.default_rng(seed + 1)
    decoding = pools[0].role == "decode"
    engines = {
        pool.name: [
            Engine(model=models[pool.name], prefills=not decoding, decodes=pool.role != "prefill")
            for _ in range(pool.replicas)
        ]
        for pool in pools
    }
    weights = np.array([_share(pool) for pool in pools])
    choices = rng.choice(len(pools), size=len(requests), p=weights / weights.sum())
    transfer = max(
        (p.predicted["kv_transfer_s"].value for p in plan.pools if "kv_transfer_s" in p.predicted),
        default=0.0,
    )
    if decoding:
        order = np.argsort([r.first_s for r in requests], kind="stable").tolist()
        for request in requests:
            request.first_s += transfer
            request.done = 0
    else:
        order = list(range(len(requests)))
    for index in order:
        request = requests[index]
        at = request.first_s if decoding else request.arrival_s
        group = engines[pools[int(choices[index])].name]
        for engine in group:
            engine.advance(at)
        _least_loaded(group).queue.append(request)
    everyone = [engine for group in engines.values() for engine in group]
    for engine in everyone:
        engine.advance(inf)
    return sum(engine.overflows for engine in everyone)


def _share(pool: Pool) -> float:
    rate = pool.predicted.get("request_rate_rps")
    return rate.value if rate is not None else float(pool.replicas)


def _least_loaded(engines: Sequence[Engine]) -> Rank:
    return min((rank for engine in engines for rank in engine.ranks), key=lambda rank: rank.load)


def _report(plan: Plan, requests: list[Request], overflows: int) -> SimulationReport:
    kept = requests[int(len(requests) * _WARM_UP_SHARE) :]
    arrival = np.array([r.arrival_s for r in kept])
    first = np.array([r.first_s for r in kept])
    finish = np.array([r.finish_s for r in kept])
    steps = np.array([r.steps for r in kept], dtype=np.float64)
    decoded = steps > 0
    values = {
        "ttft": first - arrival,
        "tpot": (finish - first)[decoded] / steps[decoded],
        "e2e": finish - arrival,
    }
    figures: list[tuple[str, float, float | None]] = []
    for name, seen in values.items():
        if not seen.size:
            continue
        keys = [(f"{name}_s", float(seen.mean()))]
        keys += [(f"{name}_p{p:g}_s", float(np.percentile(seen, p))) for p in PERCENTILES]
        for key, value in keys:
            claimed = plan.predicted.get(key)
            figures.append((key, value, claimed.value if claimed is not None else None))
    duration = float(finish.max() - arrival.min())
    return SimulationReport(
        num_requests=len(requests),
        duration_s=duration,
        rate_rps=len(kept) / max(float(arrival.max() - arrival.min()), 1e-9),
        figures=tuple(figures),
        cache_overflows=overflows,
    )
